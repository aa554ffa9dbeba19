"""gradcheck where scales mix, f is flat, or y is NaN beside x: right code is right, and wrong code is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kinked import Context

import cnncore as cc

SEEDS = range(8)


def elementwise(y: Callable[..., Any], derivative: Callable[..., Any], factor: float = 1.0) -> Callable[..., Any]:
    return lambda x: (y(x), Context(lambda dy: (factor * dy * derivative(x),)))


def masked(seed: int, mask: float) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((3, 6))
    x[:, 4:] = mask
    return x


@pytest.mark.parametrize("mask", [-1e6, -1e7, -1e8, -1e9])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_softmax_of_masked_logits(mask: float, dtype: str) -> None:
    for seed in SEEDS:
        report = cc.gradcheck(cc.ops.softmax, (masked(seed, mask),), seed=seed, dtype=dtype)
        assert report.ok, f"seed {seed}\n{report}"


def tanh(factor: float = 1.0) -> Callable[..., Any]:
    return elementwise(np.tanh, lambda x: 1 / np.cosh(np.minimum(np.abs(x), 300)) ** 2, factor)


@pytest.mark.parametrize("large", [1e3, 1e7, 1e8, 1e12])
def test_entries_of_other_sizes(large: float) -> None:
    x = np.array([large, 0.3, -0.4])
    for seed in SEEDS:
        assert cc.gradcheck(tanh(), x, seed=seed).ok
        assert not cc.gradcheck(tanh(1.001), x, seed=seed).ok
        assert not cc.gradcheck(tanh(0.0), x, seed=seed).ok


def normalised(x: np.ndarray) -> Any:
    n = np.sqrt((x**2).sum(1, keepdims=True) + 1e-12)
    y = x / n
    return y, Context(lambda dy: ((dy - y * (dy * y).sum(1, keepdims=True)) / n,))


def test_rows_of_other_sizes() -> None:
    for seed in SEEDS:
        x = np.random.default_rng(seed).standard_normal((4, 16)) * np.array([[1e-3], [1], [30], [1e3]])
        report = cc.gradcheck(normalised, x, seed=seed)
        assert report.ok, f"seed {seed}\n{report}"


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e-30, 1e30, 1e154, 1e300])
def test_sizes_whose_squares_leave_the_range(size: float) -> None:
    x = size * np.array([1.0, 2.0, -1.5])
    relu = elementwise(lambda x: np.maximum(x, 0), lambda x: x > 0)
    assert cc.gradcheck(relu, x).title.endswith(": ok")
    assert cc.gradcheck(elementwise(lambda x: 2 * x, lambda x: 2 + 0 * x), x).ok
    assert not cc.gradcheck(elementwise(lambda x: 2 * x, lambda x: 2 + 0 * x, 1.001), x).ok


def squared_error(p: np.ndarray, t: np.ndarray) -> Any:
    return ((p - t) ** 2).mean(), Context(lambda dy: (2 * dy * (p - t) / p.size, 2 * dy * (t - p) / p.size))


@pytest.mark.parametrize("shape", [(4,), (2, 3), ()])
def test_a_minimum_is_a_derivative_of_zero(shape: tuple[int, ...]) -> None:
    square = elementwise(lambda x: x * x, lambda x: 2 * x)
    cube = elementwise(lambda x: x**3, lambda x: 3 * x**2)
    for seed in SEEDS:
        for fn in (square, cube):
            assert cc.gradcheck(fn, (np.zeros(shape),), seed=seed).ok
        p = np.random.default_rng(seed).standard_normal(shape)
        assert cc.gradcheck(squared_error, (np.array(p), np.array(p)), seed=seed).ok


@pytest.mark.parametrize("least", [1e-5, 1e-7, 1e-9])
def test_a_domain_that_ends_near_x(least: float) -> None:
    x = np.array([1.0, 2.0, 3.0, least])
    for y, derivative in ((np.log, lambda x: 1 / x), (np.sqrt, lambda x: 0.5 / np.sqrt(x))):
        for seed in SEEDS:
            report = cc.gradcheck(elementwise(y, derivative), x, seed=seed)
            assert report.ok, f"seed {seed}\n{report}"
            assert not cc.gradcheck(elementwise(y, derivative, 1.001), x, seed=seed).ok


def test_arrays_without_axes() -> None:
    product = lambda x, s: (x * s, Context(lambda dy: (dy * s, np.asarray((dy * x).sum()))))  # noqa: E731
    for scalar in (np.array(2.0), np.float64(2.0)):
        assert cc.gradcheck(product, (np.ones(5), scalar)).ok
    wrong = lambda x, s: (x * s, Context(lambda dy: (dy * s, 1.001 * np.asarray((dy * x).sum()))))  # noqa: E731
    assert [a.verdict for a in cc.gradcheck(wrong, (np.ones(5), np.array(2.0))).arguments] == ["ok", "wrong"]


@pytest.mark.parametrize(("x", "gap"), [([1e8, 2e8], 1e-3), ([1.0, 2.0], 1e-12)])
def test_a_gap_smaller_than_the_usual_steps_is_kept(x: list[float], gap: float) -> None:
    base, moved = np.array(x), [0.0]

    def double(x: np.ndarray) -> Any:
        moved.append(float(np.abs(x - base).max()))
        return 2 * x, Context(lambda dy: (2 * dy,))

    cc.gradcheck(double, base, gap=gap)
    assert max(moved) <= gap / 2 * (1 + 1e-9) + np.spacing(base.max())


@pytest.mark.parametrize("options", [{"gap": "x"}, {"gap": np.nan}, {"seed": -1}, {"seed": 0.5}])
def test_options_of_the_wrong_kind_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(cc.CnncoreError, match=f"gradcheck: {next(iter(options))} must be"):
        cc.gradcheck(cc.ops.relu, (np.ones(3),), **options)
