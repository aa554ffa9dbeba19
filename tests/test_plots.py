"""Pictures: drawn where matplotlib is installed, refused in words where it is not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

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
@pytest.mark.parametrize("shape", [(4, 2, 5, 5), (4, 1, 5), (0, 1, 5, 5)])
def test_filters_refuse_other_shapes(tmp_path: Path, shape) -> None:
    with pytest.raises(cc.ShapeError, match="filters: weight must be"):
        plots.filters(tmp_path / "f.png", np.zeros(shape))
    assert not (tmp_path / "f.png").exists()


def test_missing_matplotlib_is_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(cc.CnncoreError, match=re.escape(install_hint("plot"))):
        plots.filters(tmp_path / "f.png", np.zeros((4, 1, 5, 5)))
