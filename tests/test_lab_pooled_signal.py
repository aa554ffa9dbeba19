"""`cnncore lab pooled-signal`: what can be recovered is, the figures are the definitions', and all of it is saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cnncore as cc
from cnncore import ops, plots
from cnncore.backends.philox import uniform
from cnncore.cli import main
from cnncore.lab import pooled_signal as lab
from cnncore.lab.recovery import Fixed, recover, relative
from cnncore.layers import Sequential


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path: Path) -> None:
    """A few steps on one image, and no file left outside tmp_path."""
    monkeypatch.setattr(lab, "QUICK", lab.Size((0.5, 1), images=1, steps=3))
    monkeypatch.setattr(lab, "DIGITS", 5)
    monkeypatch.chdir(tmp_path)


def digits(count: int) -> np.ndarray:
    return cc.data.mnist10k()[1][0][:count]


def filters(count: int) -> np.ndarray:
    return uniform((7, 0), (count, 1, 5, 5)) - np.float32(0.5)


def test_without_pooling_redundant_maps_give_the_image_back() -> None:
    x = digits(2)
    maps_of = Sequential(Fixed(ops.conv, filters(8), padding=2), Fixed(ops.relu))
    z, misfit = recover(maps_of, x, uniform((0, 1), x.shape) / 2, steps=200)
    assert (relative(z, x) < 1e-3).all() and (misfit < 1e-3).all()


def test_linear_maps_give_the_least_squares_solution() -> None:
    """Independent: np.linalg.lstsq on the matrix of a convolution, which has no ambiguity with 3 maps."""
    x = digits(1)[..., 8:18, 8:18]
    maps_of = Fixed(ops.conv, filters(3), padding=2)
    units = np.eye(100, dtype=np.float32).reshape(100, 1, 10, 10)
    matrix = maps_of.apply(units)[0].reshape(100, -1).T
    right = np.linalg.lstsq(matrix, maps_of.apply(x)[0].ravel(), rcond=None)[0]
    z, _ = recover(maps_of, x, np.zeros_like(x), steps=300)
    np.testing.assert_allclose(z.ravel(), right, atol=2e-3)


def test_images_of_a_batch_are_recovered_each_on_its_own() -> None:
    x = digits(3)
    maps_of = lab.measurements(filters(8), x, seed=0)["lp2"]
    start = uniform((0, 1), x.shape) / 2
    together, _ = recover(maps_of, x, start, steps=5)
    alone = np.concatenate([recover(maps_of, x[i : i + 1], start[i : i + 1], steps=5)[0] for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_relative_error() -> None:
    right = np.array([[[3.0, 4.0]], [[1.0, 0.0]]], np.float32)
    np.testing.assert_allclose(relative(right * 2, right), [1, 1])
    np.testing.assert_allclose(relative(right, right), [0, 0])


def test_every_regime_keeps_as_many_values() -> None:
    x = digits(2)
    for name, maps_of in lab.measurements(filters(3), x, seed=0).items():
        assert maps_of.apply(x)[0].shape == (2, 3, 14, 14), name


def test_known_winners_are_those_that_were_drawn() -> None:
    """For x itself the two stochastic measurements agree, the known one doubled; for another image winners stay."""
    x, other = digits(2)[:1], digits(2)[1:]
    both = lab.measurements(filters(4), x, seed=3)
    drawn, known = both[lab.STOCHASTIC], both[lab.KNOWN]
    np.testing.assert_allclose(known.apply(x)[0], 2 * drawn.apply(x)[0], rtol=1e-6)
    maps = ops.relu(ops.conv(other, filters(4), padding=2)[0])[0]
    window_max = ops.max_pool(maps, kernel=2)[0]
    one_winner = drawn.apply(x)[0] > 0
    assert (known.apply(other)[0][one_winner] <= 2.001 * window_max[one_winner]).all()


@pytest.mark.parametrize("name", lab.REGIMES)
def test_enlarged_gives_every_window_one_value(name: str) -> None:
    y = lab.enlarged(name, digits(2), 7, (0, 2))
    assert y.shape == (2, 1, 28, 28)
    tiles = y.reshape(2, 4, 7, 4, 7)
    assert (tiles == tiles[:, :, :1, :, :1]).all()


def test_kept_figures_of_a_flat_and_of_a_block_image() -> None:
    blocks = uniform((0, 0), (1, 1, 14, 14)).repeat(2, axis=2).repeat(2, axis=3)
    kept = lab.kept_by("avg", blocks, seed=0)
    assert kept["correlation"][0] == pytest.approx(1) and kept["peak"][0] == pytest.approx(1)
    assert kept["correlation"][0] > kept["correlation"][1] > kept["correlation"][2]
    assert lab.correlation(np.zeros(4), np.arange(4.0)) == 0


def line(*means: float, name: str = "max") -> list[dict]:
    return [lab.record(name, 4 * 2**i, np.full(2, mean), np.full(2, mean / 10)) for i, mean in enumerate(means)]


def test_record_tells_ambiguous_from_stuck() -> None:
    found = lab.record("max", 8, np.array([0.001, 0.5, 0.5]), np.array([0.0, 0.001, 0.2]))
    assert (found["redundancy"], found["recovered"], found["ambiguous"], found["stuck"]) == (2, 1, 1, 1)


def test_verdict_says_where_redundancy_is_enough_and_where_it_is_not() -> None:
    good, bad = line(0.5, 0.001, 1e-5), line(0.5, 0.6, 0.3, name="entropy")
    assert lab.enough(good) == 2 and lab.enough(bad) is None and lab.enough(line(1e-4, 0.5)) is None
    assert lab.rises(good) == [] and lab.rises(bad) == ["worse at 2"] and lab.rises(line(1e-5, 2e-5)) == []
    text = " ".join(lab.verdict([*good, *bad]))
    assert "in 1 of 2 regimes, but not in entropy (worse at 2)" in text and "max (2)" in text
    assert "Not entropy: at redundancy 4 the mean error is 30.0%" in text


def test_command_saves_and_prints(capsys, tmp_path: Path) -> None:
    assert main(["lab", "pooled-signal", "--quick", "--seeds", "1", "--run-dir", "here"]) == 0
    text = capsys.readouterr().out
    assert "figure 2" in text and "section 2.1" in text and "Redundancy helps" in text
    result = json.loads((tmp_path / "here" / "result.json").read_text())
    assert [kept["regime"] for kept in result["kept"]] == list(lab.REGIMES)
    assert len(result["points"]) == 2 * (len(lab.REGIMES) + 1)
    saved = {path.name for path in (tmp_path / "here").iterdir()}
    assert saved == {"result.json", *result["pictures"]}
    assert len(result["pictures"]) == (0 if plots.missing() else 3)


def test_json_is_the_same_for_the_same_seed_and_another_for_another(capsys, monkeypatch) -> None:
    monkeypatch.setattr(plots, "missing", lambda: "not drawn here, for time")

    def run(*more: str) -> dict:
        assert main(["lab", "pooled-signal", "--quick", "--seeds", "1", "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)

    first = run()
    assert run()["points"] == first["points"]
    assert run("--seed", "1")["points"] != first["points"]
    assert run("--image", "5")["points"] != first["points"]


def test_without_matplotlib_the_numbers_are_saved_and_it_is_said(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plots, "missing", lambda: "pictures need matplotlib")
    assert main(["lab", "pooled-signal", "--quick", "--seeds", "1"]) == 0
    assert "pictures need matplotlib" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "runs/lab/pooled-signal-quick").iterdir()] == ["result.json"]


@pytest.mark.parametrize("image", ["-1", "2000"])
def test_an_image_that_is_not_there(image: str, capsys) -> None:
    assert main(["lab", "pooled-signal", "--quick", "--image", image]) == 1
    assert "image must be at" in capsys.readouterr().err
