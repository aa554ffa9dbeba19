"""The NumPy definitions against nested loops (oracle/), in both dtypes."""

from __future__ import annotations

import numpy as np
import pytest
from bounds import answer, check, outputs_of
from engines import HOST_BACKENDS
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import ORACLE
from strategies import DTYPES, HypothesisDraw, examples, problem

from cnncore.backends.philox import uniform
from cnncore.ops.op import run
from cnncore.ops.records import registry

SLOW = 200_000  # operations: what the nested loops do in a tenth of a second or two


def against_loops(p, layouts_hold=True):
    op, loops = p.op, ORACLE[p.op.name]
    bounds = answer(p)
    y, ctx = run(op, p.arrays, p.attrs, "numpy")
    wanted = loops.forward(p.arrays, p.attrs)
    assert len(wanted) == op.outputs
    for i, (got, want, bound) in enumerate(zip(outputs_of(op, y), wanted, bounds.output_bounds, strict=True)):
        assert got.dtype == p.dtype
        check(got, want, bound, f"{op.name}: output {i}")
    if loops.backward is not None:
        wanted = loops.backward(p.arrays, p.attrs, p.dy)
        for name, got, want, bound in zip(
            op.names(p.arrays), ctx.backward(p.dy), wanted, bounds.gradient_bounds, strict=True
        ):
            assert got is None or got.dtype == p.dtype
            check(got, want, bound, f"{op.name}: gradient of {name}")


def test_every_op_has_its_nested_loops():
    assert list(ORACLE) and set(ORACLE) == set(registry), "write the op's nested loops in tests/oracle/"
    for name, loops in ORACLE.items():
        assert (loops.backward is None) == (registry[name].backward is None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ORACLE)
@examples(20)
@given(data=st.data())
def test_the_definition_equals_the_loops(name, dtype, data):
    op = registry[name]
    case = op.domain(HypothesisDraw(data, spread=2))
    assume(op.flops(op.rule(*case.arrays, **case.attrs), case.arrays)[0] < SLOW)
    against_loops(problem(data, op, dtype, case))


@pytest.mark.parametrize("name", ["max_pool", "avg_pool", "maxout", "relu", "add", "concat"])
@examples(30)
@given(data=st.data())
def test_special_values(name, data):
    """Ties, zeros, infinities and NaN, anywhere: whoever wins and whatever propagates, the loops agree."""
    op = registry[name]
    case = op.domain(HypothesisDraw(data, spread=2))
    special = np.array([0.0, -0.0, 1.0, 1.0, -1.0, np.inf, -np.inf, np.nan])
    chosen = data.draw(st.lists(st.sampled_from(range(len(special))), min_size=1, max_size=5), label="values")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    arrays = tuple(special[rng.choice(chosen, a.shape)] for a in case.arrays)
    with np.errstate(invalid="ignore"):
        y, ctx = run(op, arrays, case.attrs, "numpy")
        (want,) = ORACLE[name].forward(arrays, case.attrs)
        np.testing.assert_allclose(y, want, rtol=1e-14, atol=1e-15)
        dy = rng.standard_normal(y.shape)
        for got, want in zip(ctx.backward(dy), ORACLE[name].backward(arrays, case.attrs, dy), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13)


def test_padding_does_not_win_against_minus_infinity():
    """The gradient goes to the first real element, where padding stands before it."""
    x = np.full((1, 1, 3), -np.inf)
    y, ctx = run(registry["max_pool"], (x,), {"kernel": 3, "stride": 2, "padding": 1}, "numpy")
    assert y.tolist() == [[[-np.inf, -np.inf]]]
    assert ctx.backward(np.array([[[2.0, 5.0]]]))[0].tolist() == [[[2.0, 5.0, 0.0]]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_is_stable(dtype):
    """Where the naive formula overflows: the differences alone decide."""
    big = float(np.finfo(dtype).max)
    x = np.array([[1e4, 1e4, 1e4 - 1], [big, -big, 0], [-big, -big, -big]], dtype)
    y, ctx = run(registry["softmax"], (x,), {}, "numpy")
    e = np.exp(-1.0)
    want = [[1 / (2 + e), 1 / (2 + e), e / (2 + e)], [1, 0, 0], [1 / 3] * 3]
    np.testing.assert_allclose(y, want, rtol=1e-6)
    loss, ctx = run(registry["softmax_cross_entropy"], (x[:1], np.array([2])), {}, "numpy")
    np.testing.assert_allclose(loss, np.log(2 + e) + 1, rtol=1e-6)
    np.testing.assert_allclose(ctx.backward()[0], [[want[0][0], want[0][1], want[0][2] - 1]], rtol=1e-6)


def test_dropout_compares_in_the_dtype_of_x():
    """u = p as float32 is kept, although p as float64 is larger than it."""
    u = np.float32([0.9, np.nextafter(np.float32(0.9), np.float32(0))])
    assert float(u[0]) < 0.9
    y, ctx = run(registry["dropout"], (np.ones(2, np.float32), u), {"p": 0.9}, "numpy")
    assert y[0] > 0 and y[1] == 0
    assert (ctx.backward(np.ones(2, np.float32))[0] > 0).tolist() == [True, False]


@pytest.mark.parametrize("backend", HOST_BACKENDS)
@pytest.mark.parametrize("shape", [(200, 5), (50, 20, 30), (50, 20, 5, 7), (50, 20, 3, 2, 2)])
def test_dropout_per_map(shape, backend):
    """Every map goes or stays as a whole, about as many as p says; a key draws a number per map."""
    x = np.ones(shape, np.float32)
    x[0, 0] = np.nan
    y, ctx = run(registry["dropout"], (x, (4, 0)), {"p": 0.25, "per": "map"}, backend)
    u = uniform((4, 0), (*shape[:2], *(1,) * (len(shape) - 2)))
    assert np.array_equal(y, np.where(u >= 0.25, x * np.float32(4 / 3), 0), equal_nan=True)
    assert 0.7 < (u >= 0.25).mean() < 0.8
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    again, other = run(registry["dropout"], (last, u), {"p": 0.25, "per": "map"}, backend)
    assert np.array_equal(again, y, equal_nan=True)
    dy = np.ones_like(x)
    for context in (ctx, other):
        assert np.array_equal(context.backward(dy)[0], np.where(u >= 0.25, dy * np.float32(4 / 3), 0))


def test_a_window_of_padding_alone_gives_the_bias():
    x, w, b = np.ones((1, 1, 2)), np.ones((1, 1, 1)), np.array([5.0])
    y, _ = run(registry["conv"], (x, w, b), {"padding": ((2, 1),)}, "numpy")
    assert y.tolist() == [[[5.0, 5.0, 6.0, 6.0, 5.0]]]


def test_needs_choose_what_is_computed():
    """Each subset of `needs` gives the gradients of the full call, and None for the rest."""
    rng = np.random.default_rng(0)
    arrays = (rng.standard_normal((2, 2, 5)), rng.standard_normal((3, 2, 2)), rng.standard_normal(3))
    y, ctx = run(registry["conv"], arrays, {}, "numpy")
    full = ctx.backward(np.ones_like(y))
    for subset in ([], ["x"], ["w"], ["b"], ["x", "b"], ["w", "x"], ["x", "w", "b"]):
        for name, got, want in zip("xwb", ctx.backward(np.ones_like(y), needs=subset), full, strict=True):
            assert (got is None) == (name not in subset)
            assert got is None or np.array_equal(got, want)
