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
