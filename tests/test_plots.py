"""Pictures: drawn where matplotlib is installed, refused in words where it is not."""

from __future__ import annotations

import itertools
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnncore as cc
from cnncore import plots
from cnncore.errors import install_hint

needs_matplotlib = pytest.mark.skipif(plots.missing() is not None, reason="matplotlib is not installed")


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)


@needs_matplotlib
def test_learning_curve_draws_even_a_single_perfect_epoch(tmp_path: Path) -> None:
    plots.learning_curve(tmp_path / "a.png", [9.0, 3.0], [4.0, 2.0])
    plots.learning_curve(tmp_path / "b.png", [0.0], [0.0])
    assert pixels(tmp_path / "a.png").std() > 0 and pixels(tmp_path / "b.png").std() > 0


@needs_matplotlib
@pytest.mark.parametrize("shape", [(32, 1, 5, 5), (3, 3, 7, 7), (9, 1, 1, 1)])
def test_filters(tmp_path: Path, shape) -> None:
    plots.filters(tmp_path / "f.png", np.random.default_rng(0).standard_normal(shape))
    assert pixels(tmp_path / "f.png").std() > 0


@needs_matplotlib
def test_positive_is_red_and_negative_is_blue(tmp_path: Path) -> None:
    plots.filters(tmp_path / "f.png", np.array([1.0, -1.0]).reshape(2, 1, 1, 1))
    image = pixels(tmp_path / "f.png")[..., :3]
    left, right = image[:, : image.shape[1] // 2], image[:, image.shape[1] // 2 :]
    assert (left[..., 0] > left[..., 2]).any() and not (left[..., 2] > left[..., 0] + 0.01).any()
    assert (right[..., 2] > right[..., 0]).any() and not (right[..., 0] > right[..., 2] + 0.01).any()


@needs_matplotlib
@pytest.mark.parametrize("shape", [(4, 2, 5, 5), (64, 32, 5, 5), (3, 500, 1, 1), (100, 4, 2, 3)])
def test_filters_of_a_later_layer(tmp_path: Path, shape) -> None:
    """A row for each filter, a tile for each channel, white between them; the first 64 of both."""
    weight = np.random.default_rng(0).standard_normal(shape)
    drawing = plots.filters(tmp_path / "f.png", weight)
    [axes] = drawing.axes
    picture, (h, w) = axes.images[0].get_array(), shape[2:]
    rows, columns = min(shape[0], 64), min(shape[1], 64)
    assert picture.shape == (rows * (h + 1) - 1, columns * (w + 1) - 1)
    for i, j in ((0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3)):
        tile = picture[i * (h + 1) : i * (h + 1) + h, j * (w + 1) : j * (w + 1) + w]
        np.testing.assert_allclose(tile, weight[i, j] / np.abs(weight).max())
    assert np.isnan(np.ma.filled(picture, np.nan)[h :: h + 1]).all()
    assert axes.get_xlabel() == ("the first 64 of 500 channels" if shape[1] == 500 else f"{shape[1]} channels")
    assert axes.get_ylabel() == ("the first 64 of 100 filters" if shape[0] == 100 else f"{shape[0]} filters")
    height, width = pixels(tmp_path / "f.png").shape[:2]
    assert max(height, width) <= 1300 and min(height, width) >= 180


@needs_matplotlib
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_filters_that_are_not_finite(tmp_path: Path, channels: int, value: float) -> None:
    weight = np.random.default_rng(0).standard_normal((4, channels, 3, 3))
    weight[1] = value
    plots.filters(tmp_path / "f.png", weight)
    plots.filters(tmp_path / "g.png", np.full_like(weight, value))
    assert pixels(tmp_path / "f.png").std() > 0
    if channels != 5:  # tiles alone are left
        np.testing.assert_array_equal(pixels(tmp_path / "g.png")[..., :3], 1)


# --- axes ---


def labels(axes: Any) -> list[Any]:
    """The extents of the y axis's labels, from the lowest on."""
    axes.figure.draw_without_rendering()
    ticks = [*axes.yaxis.get_major_ticks(), *axes.yaxis.get_minor_ticks()]
    shown = [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]
    least, most = axes.get_ylim()
    boxes = [label.get_window_extent() for label in shown if least <= label.get_position()[1] <= most]
    return sorted(boxes, key=lambda box: box.y0)


@needs_matplotlib
@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 90), st.floats(1.0005, 10_000))
def test_labels_of_the_logarithmic_axis_do_not_overlap(least: float, ratio: float) -> None:
    most = min(least * ratio, 100.0)
    drawing = plots.learning_curve(None, [most, least], [most, least])
    boxes = labels(drawing.axes[0])
    assert len(boxes) >= 2
    assert all(below.y1 < above.y0 for below, above in itertools.pairwise(boxes))


@needs_matplotlib
def test_the_legend_says_what_it_is_told() -> None:
    def legend(drawing: Any) -> list[str]:
        return [text.get_text() for text in drawing.axes[0].get_legend().get_texts()]

    assert legend(plots.learning_curve(None, [3.0], [2.0])) == ["training", "test"]
    told = plots.learning_curve(None, [3.0], [2.0], training="training, with shifts")
    assert legend(told) == ["training, with shifts", "test"]


# --- notebooks ---


@needs_matplotlib
def test_every_plot_is_a_picture_in_a_notebook() -> None:
    report = cc.gradcheck(cc.ops.tanh, (np.ones((2, 3)),))
    for drawing in (
        plots.learning_curve(None, [3.0, 1.0], [2.0, 1.0]),
        plots.filters(None, np.random.default_rng(0).random((9, 1, 3, 3))),
        plots.filters(None, np.random.default_rng(0).random((2, 9, 3, 3))),
        plots.comparison(None, "title", [("a", [1.0], [[2.0, 1.0]])]),
        report.plot(),
    ):
        shown = drawing._repr_png_()
        assert shown.startswith(b"\x89PNG\r\n") and len(shown) > 500
        copy = pickle.loads(pickle.dumps(drawing))
        assert copy._repr_png_().startswith(b"\x89PNG\r\n")


@needs_matplotlib
def test_ipython_shows_a_picture() -> None:
    formatters = pytest.importorskip("IPython.core.formatters")
    shown, _ = formatters.DisplayFormatter().format(plots.filters(None, np.ones((2, 1, 3, 3))))
    assert shown["image/png"].startswith(b"\x89PNG")


@needs_matplotlib
@pytest.mark.parametrize("shape", [(4, 2, 5), (4, 1, 5), (4, 2, 3, 5, 5), (0, 1, 5, 5), (4, 0, 5, 5)])
def test_filters_refuse_other_shapes(tmp_path: Path, shape) -> None:
    with pytest.raises(cc.ShapeError, match="filters: weight must be"):
        plots.filters(tmp_path / "f.png", np.zeros(shape))
    assert not (tmp_path / "f.png").exists()


def test_missing_matplotlib_is_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(cc.CnncoreError, match=re.escape(install_hint("plot"))):
        plots.filters(tmp_path / "f.png", np.zeros((4, 1, 5, 5)))
