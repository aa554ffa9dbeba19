"""gradcheck: errors planted in copies of real ops are found and named in every seed, right ops pass in every seed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import cnncore as cc
from cnncore.backends import select
from cnncore.ops.domain import Draw
from cnncore.ops.op import run
from cnncore.ops.records import registry

SEEDS = range(100)
WITH_GRADIENT = [name for name, op in registry.items() if op.backward is not None]
OTHERS = [b for b in select.NAMES if b != "numpy" and select.why_not(b) is None]

Function = Callable[..., tuple[Any, Any]]


def function(op: Any) -> Function:
    """An op that is in no registry, as a function."""

    def call(*arrays: Any, **attrs: Any) -> tuple[Any, Any]:
        return run(op, arrays, attrs, "numpy")

    return call


def planted(name: str, spoil: Callable[[list[np.ndarray]], None]) -> Function:
    """A copy of an op whose gradients `spoil` changes."""
    right = registry[name]

    def backward(p: Any, needs: Any, dy: Any, *saved: Any) -> tuple[Any, ...]:
        gradients = [None if g is None else np.array(g) for g in right.backward(p, needs, dy, *saved)]
        spoil(gradients)
        return tuple(gradients)

    return function(dataclasses.replace(right, backward=backward))


def conv_problem(seed: int) -> tuple[tuple[np.ndarray, ...], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    shapes = (2, 2, 3, 4), (3, 2, 2, 1), (3,)
    return tuple(rng.standard_normal(s) for s in shapes), {"padding": 1}


def kinks(report: Any) -> list[tuple[int, ...]]:
    return [k.index for a in report.arguments for k in a.kinks]


def places(report: Any) -> set[tuple[str, tuple[int, ...]]]:
    return {(w.argument, w.index) for w in report.wrong}


# --- right ops pass, planted errors are found --------------------------------------------------------------------


@pytest.mark.parametrize("name", registry)
def test_right_ops_pass_in_every_seed(name: str) -> None:
    for seed in SEEDS:
        case = registry[name].domain(Draw(seed))
        report = cc.gradcheck(
            registry[name].function, case.arrays, backend="numpy", seed=seed, gap=case.gap, **case.attrs
        )
        assert report.ok, f"seed {seed}\n{report}"
        assert report.max_error < 1e-6
        assert report.backend == "numpy"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_factor_of_one_in_a_thousand_is_found(dtype: str) -> None:
    def spoil(g: list[np.ndarray]) -> None:
        if g[1] is not None:
            g[1] *= g[1].dtype.type(1.001)

    for seed in SEEDS if dtype == "float64" else SEEDS[:30]:
        arrays, attrs = conv_problem(seed)
        report = cc.gradcheck(planted("conv", spoil), arrays, seed=seed, dtype=dtype, **attrs)
        assert [a.verdict for a in report.arguments] == ["ok", "wrong", "ok"], f"seed {seed}\n{report}"
        assert len(report.wrong) == 10
        assert report.arguments[1].more


def test_a_swapped_index_is_found() -> None:
    def spoil(g: list[np.ndarray]) -> None:
        if g[1] is not None:
            g[1][0, 1], g[1][2, 3] = g[1][2, 3].copy(), g[1][0, 1].copy()

    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        arrays = tuple(rng.standard_normal(s) for s in ((3, 5), (4, 5), (4,)))
        report = cc.gradcheck(planted("linear", spoil), arrays, seed=seed)
        assert places(report) == {("arrays1", (0, 1)), ("arrays1", (2, 3))}, f"seed {seed}\n{report}"


def test_a_missing_bias_term_is_found() -> None:
    def spoil(g: list[np.ndarray]) -> None:
        if g[2] is not None:
            g[2][:] = 0

    for seed in SEEDS:
        arrays, attrs = conv_problem(seed)
        report = cc.gradcheck(planted("conv", spoil), arrays, seed=seed, **attrs)
        assert places(report) == {("arrays2", (k,)) for k in range(3)}, f"seed {seed}\n{report}"


def test_a_sign_at_one_border_pixel_is_found() -> None:
    def spoil(g: list[np.ndarray]) -> None:
        if g[0] is not None:
            g[0][1, 0, 2, 3] *= -1

    for seed in SEEDS:
        arrays, attrs = conv_problem(seed)
        report = cc.gradcheck(planted("conv", spoil), arrays, seed=seed, **attrs)
        assert places(report) == {("arrays0", (1, 0, 2, 3))}, f"seed {seed}\n{report}"


def test_a_wrong_winner_in_max_pool_is_found() -> None:
    right = registry["max_pool"]

    def forward(p: Any, x: np.ndarray) -> tuple[np.ndarray, ...]:
        y, winner = right.forward(p, x)
        winner[0, 1, 1, 0] = (winner[0, 1, 1, 0] + 1) % p.window.taps
        return y, winner

    wrong = function(dataclasses.replace(right, forward=forward))
    for seed in SEEDS:
        x, gap = Draw(seed).distinct(2, 2, 4, 6)
        report = cc.gradcheck(wrong, (x,), seed=seed, gap=gap, kernel=2)
        assert len(report.wrong) == 2, f"seed {seed}\n{report}"  # who lost the gradient, and who got it
        assert {w.index[:2] for w in report.wrong} == {(0, 1)}


@pytest.mark.parametrize("name", WITH_GRADIENT)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_factor_is_found_in_every_op(name: str, dtype: str) -> None:
    def spoil(g: list[np.ndarray]) -> None:
        if g[0] is not None:
            g[0] *= g[0].dtype.type(1.001)

    found = 0
    for seed in range(8):
        case = registry[name].domain(Draw(seed))
        report = cc.gradcheck(planted(name, spoil), case.arrays, dtype=dtype, seed=seed, gap=case.gap, **case.attrs)
        y, ctx = function(registry[name])(*case.arrays, **case.attrs)
        if np.any(ctx.backward(np.random.default_rng(seed).standard_normal(np.shape(y)))[0]):  # else it is no error
            assert not report.ok, f"seed {seed}\n{report}"
            found += 1
    assert found > 4


@pytest.mark.parametrize("name", registry)
@pytest.mark.parametrize("backend", ["numpy", *OTHERS])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_backend_passes(name: str, backend: str, dtype: str) -> None:
    for seed in range(2 if backend == "cuda" else 5):
        case = registry[name].domain(Draw(seed))
        report = cc.gradcheck(
            registry[name].function, case.arrays, backend=backend, dtype=dtype, seed=seed, gap=case.gap, **case.attrs
        )
        assert report.ok, f"seed {seed}\n{report}"
        assert (report.backend, report.dtype) == (backend, dtype)
        assert report.max_error < (1e-4 if dtype == "float32" else 1e-6)


# --- the verdict rests on convergence ----------------------------------------------------------------------------


def cubic(factor: float = 1.0) -> Function:
    return lambda x: (x**3, SimpleNamespace(backward=lambda dy: (factor * 3 * x**2 * dy,)))


def test_a_right_error_falls_with_the_square_of_the_step_and_a_wrong_one_stays() -> None:
    x = np.random.default_rng(0).standard_normal(6)
    right, wrong = cc.gradcheck(cubic(), x), cc.gradcheck(cubic(1.001), x)
    curve = right.arguments[0].curve
    assert right.ok
    assert abs(curve.order - 2) < 0.01
    assert right.max_error < 1e-8
    curve = wrong.arguments[0].curve
    assert not wrong.ok
    for step in curve.steps[-4:]:
        assert abs(step.slope - curve.analytic) == pytest.approx(1e-3 / 1.001 * abs(curve.analytic), rel=1e-2)
    for entry in wrong.wrong:
        assert entry.analytic == pytest.approx(1.001 * entry.numeric, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_size_of_the_input_does_not_matter(scale: float) -> None:
    x = scale * np.random.default_rng(1).standard_normal(5)
    assert cc.gradcheck(cubic(), x).ok
    assert not cc.gradcheck(cubic(1.001), x).ok


def test_a_strongly_curved_function_is_decided_at_smaller_steps() -> None:
    def steep(factor: float) -> Function:
        return lambda x: (np.exp(300 * x), SimpleNamespace(backward=lambda dy: (factor * 300 * np.exp(300 * x) * dy,)))

    x = np.random.default_rng(2).uniform(0.5, 1, 4)
    assert cc.gradcheck(steep(1), x).ok
    assert not cc.gradcheck(steep(1.001), x).ok


def test_a_gradient_of_zero_passes_and_is_not_taken_for_granted() -> None:
    x = np.ones((3, 1))
    assert cc.gradcheck(cc.ops.softmax, x).ok
    report = cc.gradcheck(lambda x: (0 * x, SimpleNamespace(backward=lambda dy: (1e-3 * dy,))), x)
    assert len(report.wrong) == 3


def test_too_noisy_a_function_is_undecided_and_not_passed() -> None:
    def coarse(x: np.ndarray) -> tuple[np.ndarray, Any]:
        return np.sin(x).astype(np.float16).astype(np.float64), SimpleNamespace(backward=lambda dy: (dy * np.cos(x),))

    report = cc.gradcheck(coarse, np.random.default_rng(3).standard_normal(20))
    assert report.arguments[0].verdict == "cannot tell"
    assert "f is too noisy" in str(report)
    assert not report.ok


def test_one_entry_in_a_large_array_is_found_without_looking_at_all() -> None:
    calls = 0

    class Context:
        def __init__(self, x: np.ndarray) -> None:
            self.x = x

        def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
            g = 2 * self.x * dy
            g[0, 199, 499] *= 1.001
            return (g,)

    def square(x: np.ndarray) -> tuple[np.ndarray, Any]:
        nonlocal calls
        calls += 1
        return x * x, Context(x)

    report = cc.gradcheck(square, np.random.default_rng(4).uniform(0.5, 1, (1, 200, 500)))
    assert places(report) == {("x", (0, 199, 499))}
    assert calls < 300  # 100,000 entries one by one would be 200,000


def test_a_float32_gradient_wrong_in_float32_alone_is_found() -> None:
    def backward(x: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray]:
        return ((1.001 if x.dtype == np.float32 else 1.0) * 2 * x * dy,)

    def fn(x: np.ndarray) -> tuple[np.ndarray, Any]:
        return x * x, SimpleNamespace(backward=lambda dy: backward(x, dy))

    x = np.random.default_rng(5).standard_normal(20)
    assert cc.gradcheck(fn, x).ok
    assert not cc.gradcheck(fn, x, dtype="float32").ok


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_a_last_bit_is_no_error_in_float32(name: str) -> None:
    def spoil(g: list[np.ndarray]) -> None:
        for gradient in g:
            if gradient is not None and gradient.dtype == np.float32:
                np.copyto(gradient, np.nextafter(gradient, np.float32(np.inf)), where=gradient != 0)

    for seed in range(10):
        case = registry[name].domain(Draw(seed))
        report = cc.gradcheck(planted(name, spoil), case.arrays, dtype="float32", seed=seed, gap=case.gap, **case.attrs)
        assert report.ok, f"seed {seed}\n{report}"


def test_the_rounding_of_a_saturated_softmax_in_float32_is_no_error() -> None:
    """y (1 - y) with y near 1: the last bit of y alone is a large part of it, whatever way y was divided."""
    right = registry["softmax"]

    def forward(p: Any, x: np.ndarray) -> tuple[np.ndarray, ...]:
        e = np.exp(x - x.max(axis=1, keepdims=True))
        y = e * (1 / e.sum(axis=1, keepdims=True))
        return (np.nextafter(y, np.float32(0)) if y.dtype == np.float32 else y,)

    for seed in range(20):
        x = np.random.default_rng(seed).standard_normal((1, 3)) + [9, 0, 0]
        report = cc.gradcheck(function(dataclasses.replace(right, forward=forward)), x, dtype="float32", seed=seed)
        assert report.ok, f"seed {seed}\n{report}"


# --- kinks -------------------------------------------------------------------------------------------------------


def test_entries_at_a_kink_are_listed_and_all_others_compared() -> None:
    x = np.array([[0.5, 0.0, -1.0], [1e-6, 2.0, 0.0]])
    report = cc.gradcheck(cc.ops.relu, x)
    assert report.ok
    assert kinks(report) == [(0, 1), (1, 2)]  # not 1e-6: there are steps small enough for it
    assert "ok, NOT DIFFERENTIABLE at 2 entries" in str(report).splitlines()[0]
    for k in report.arguments[0].kinks:
        assert k.left == k.analytic == 0
        assert str(k) in str(report)

    def spoil(g: list[np.ndarray]) -> None:
        g[0][1, 0] = 0

    report = cc.gradcheck(planted("relu", spoil), x)
    assert places(report) == {("arrays0", (1, 0))}


def test_nothing_but_kinks_is_not_differentiable_in_title_and_row_alike() -> None:
    report = cc.gradcheck(cc.ops.relu, (np.zeros((2, 3)),))
    assert report.ok
    assert report.arguments[0].verdict == report.verdict == "not differentiable"
    assert report.wrong == []
    title, _, row, first, *_ = str(report).splitlines()
    assert title.endswith(": NOT DIFFERENTIABLE")
    assert row.endswith("NOT DIFFERENTIABLE")
    assert re.fullmatch(
        r"  x\[0, 0\]: not differentiable here: left 0, right -?[\d.]+; backward's 0 lies between", first
    )


def test_ties_in_max_pool_are_kinks() -> None:
    x = np.array([[[1.0, 1.0, 2.0, 3.0, 5.0, 5.0 - 1e-5]]])
    report = cc.gradcheck(cc.ops.max_pool, x, kernel=2)
    assert report.ok
    assert kinks(report) == [(0, 0, 0), (0, 0, 1)]


class Context:
    """What a user's function returns beside y."""

    def __init__(self, backward: Callable[..., Any]) -> None:
        self.backward = backward


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
def test_any_value_between_the_slopes_passes_at_a_kink_and_no_other(factor: float) -> None:
    x = np.array([0.0, 1.0, -1.0])

    def relu(at_zero: float) -> Function:
        return lambda x: (np.maximum(x, 0), Context(lambda dy: (dy * np.where(x == 0, at_zero, x > 0),)))

    report = cc.gradcheck(relu(factor), x)
    assert report.ok
    assert kinks(report) == [(0,)]
    for beyond in (-0.5, 1.5, 40.0):
        report = cc.gradcheck(relu(beyond), x)
        assert report.verdict == "wrong"
        assert places(report) == {("x", (0,))}
        assert "does not lie between" in str(report)


@pytest.mark.parametrize("distance", [1e-9, 1e-12])
def test_beside_a_kink_a_point_has_a_derivative(distance: float) -> None:
    for x in (np.full((2, 3), distance), np.array([1.0, distance, -1.0, -distance])):
        report = cc.gradcheck(cc.ops.relu, (x,))
        assert report.title.endswith(": ok")
        wrong = cc.gradcheck(planted("relu", lambda g: np.multiply(g[0], 1.001, out=g[0])), (x,))
        assert wrong.verdict == "wrong"


def test_more_kinks_than_can_be_looked_at_are_said_to_be() -> None:
    report = cc.gradcheck(cc.ops.relu, (np.zeros(5000),))
    assert not report.ok
    assert report.title.endswith("CANNOT TELL")
    assert "check at another point" in report.arguments[0].reason


def test_jumps_and_infinite_slopes_cannot_be_told_and_the_reason_is() -> None:
    jump = cc.gradcheck(lambda x: (np.sign(x) + x, Context(lambda dy: (dy,))), np.array([0.0, 1.0]))
    root = cc.gradcheck(lambda x: (np.sqrt(np.abs(x)), Context(lambda dy: (0 * dy,))), np.array([0.0]))
    for report in (jump, root):
        assert report.verdict == "cannot tell"
        assert not report.ok
        assert "the slope grows as the step falls" in str(report)
