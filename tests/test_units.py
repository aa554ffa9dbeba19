"""maxout and lp_unit: limits, ties, and what their layers do."""

from __future__ import annotations

import numpy as np
import pytest
from engines import ENGINES

import cnncore as cc
from cnncore import layers as ly
from cnncore.errors import ShapeError

engines = pytest.mark.parametrize("engine", ENGINES, ids=str)
RNG = np.random.default_rng(5)


@engines
def test_one_piece_and_kernel_1_is_the_identity(engine):
    x = RNG.standard_normal((2, 3, 4, 5))
    with engine.running() as backend:
        y, ctx = cc.ops.maxout(x, pieces=1, backend=backend)
        assert np.array_equal(y, x) and np.array_equal(ctx.backward(2 * x)[0], 2 * x)


@engines
def test_one_piece_is_max_pooling(engine):
    x = RNG.standard_normal((2, 3, 6, 5))
    window = {"kernel": (2, 3), "stride": 2, "padding": 1}
    with engine.running() as backend:
        y, ctx = cc.ops.maxout(x, pieces=1, **window, backend=backend)
        want, pool = cc.ops.max_pool(x, **window, backend=backend)
        assert np.array_equal(y, want)
        assert np.array_equal(ctx.backward(want)[0], pool.backward(want)[0])


@engines
def test_maxout_ties_nan_and_minus_infinity(engine):
    """The first position, and there the first map; padding never wins; negative results stay."""
    x = np.full((1, 2, 3), -4.0)
    with engine.running() as backend:
        y, ctx = cc.ops.maxout(x, pieces=2, kernel=3, padding=1, stride=2, backend=backend)
        assert y.tolist() == [[[-4.0, -4.0]]]
        assert ctx.backward(np.array([[[2.0, 5.0]]]))[0].tolist() == [[[2.0, 5.0, 0.0], [0.0, 0.0, 0.0]]]
        x[0, :, 2], x[0, 1, 0] = -np.inf, np.nan
        y, ctx = cc.ops.maxout(x, pieces=2, backend=backend)
        np.testing.assert_array_equal(y, [[[np.nan, -4, -np.inf]]])
        assert ctx.backward(np.ones_like(y))[0].tolist() == [[[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]]


def test_the_maxout_layer():
    x = RNG.standard_normal((2, 6, 5, 5))
    layer = ly.Maxout2d(3, 2, 1, padding=1)
    y, call = cc.ops.maxout(x, pieces=3, kernel=2, stride=1, padding=1)
    np.testing.assert_array_equal(layer.forward(x), y)
    np.testing.assert_array_equal(layer.backward(y), call.backward(y)[0])
    assert repr(layer) == "Maxout2d(3, kernel_size=2, stride=1, padding=1)" and repr(ly.Maxout1d(2)) == "Maxout1d(2)"
    with pytest.raises(ShapeError, match=r"maxout: x's maps \(6\) must be a multiple of pieces \(4\)"):
        ly.Maxout2d(4).forward(x)
    with pytest.raises(ShapeError, match="Maxout1d: x must be"):
        ly.Maxout1d(2).forward(x)


@engines
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lp_units_at_the_awkward_points(engine, dtype):
    """All zero, one element, sizes near the ends of the range, Inf and NaN."""
    big, small = (1e37, 1e-37) if dtype == np.float32 else (1e300, 1e-300)
    x = np.array([0, 0, 3, 3, 0, 5, big, big, small, small, np.inf, 1, np.nan, np.inf], dtype).reshape(1, 7, 2)
    x = np.ascontiguousarray(np.swapaxes(x, 1, 2))  # two maps, seven positions
    with engine.running() as backend, np.errstate(all="ignore"):
        y, ctx = cc.ops.lp_unit(x, np.full(1, 4.0, dtype), pieces=2, backend=backend)
        p = 1 + np.logaddexp(4.0, 0)
        want = [0, 3, 5 * 0.5 ** (1 / p), big, small, np.inf, np.nan]
        np.testing.assert_allclose(y[0, 0], want, rtol=20 * np.finfo(dtype).eps)
        dx, _, _ = ctx.backward(np.ones_like(y), needs="x")
        want = [[0, 0.5, 0, 0.5, 0.5], [0, 0.5, 0.5 * 0.5 ** (1 / p - 1), 0.5, 0.5]]
        np.testing.assert_allclose(dx[0, :, :5], want, rtol=1e4 * np.finfo(dtype).eps)
        y, ctx = cc.ops.lp_unit(x[..., :1], np.full(1, 4.0, dtype), pieces=2, backend=backend)
        assert not any(g.any() for g in ctx.backward(np.ones_like(y))[:2])


def test_gradient_descent_recovers_a_planted_p():
    x = RNG.standard_normal((64, 6, 5))
    planted = np.array([1.4, 3.0])
    target, _ = cc.ops.lp_unit(x, np.log(np.expm1(planted - 1)), pieces=3)
    layer = ly.LPUnit1d(2, 3, center=False, dtype=np.float64)
    np.testing.assert_allclose(layer.norms(), 2)
    for _ in range(800):
        layer.zero_grad()
        layer.backward((layer.forward(x) - target) / len(x), dx=False)
        layer.rho.value -= 8 * layer.rho.grad
    np.testing.assert_allclose(layer.norms(), planted, rtol=1e-3)
    assert repr(layer) == "LPUnit1d(2, 3, kernel_size=1)"
