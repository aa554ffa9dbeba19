"""softmax along any axis of arrays of 1 to 5 axes, against loops over the lines along it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from engines import ENGINES, Engine, to_host
from strategies import LAYOUTS

import cnncore as cc
from cnncore.errors import ShapeError

SHAPES = [(7,), (4, 35), (3, 5, 17), (2, 19, 3, 4), (2, 3, 4, 3, 5)]
AXES = [(shape, axis) for shape in SHAPES for axis in range(-len(shape), len(shape))]
engines = pytest.mark.parametrize("engine", [Engine("numpy"), *ENGINES], ids=str)


def line_by_line(x, dy, axis):
    """y and dx, of one line along the axis after the other, in Python's floats."""
    y, dx = np.empty(x.shape), np.empty(x.shape)
    lines = [np.moveaxis(a, axis, -1) for a in (x, dy, y, dx)]
    for at in np.ndindex(lines[0].shape[:-1]):
        values, above = ([float(v) for v in a[at]] for a in lines[:2])
        e = [math.exp(v - max(values)) for v in values]
        part = [v / math.fsum(e) for v in e]
        lines[2][at] = part
        lines[3][at] = [p * (d - math.fsum(q * f for q, f in zip(part, above, strict=True)))
                        for p, d in zip(part, above, strict=True)]  # fmt: skip
    return y, dx


@engines
@pytest.mark.parametrize(("shape", "axis"), AXES)
def test_every_axis_in_every_layout(engine, shape, axis):
    rng = np.random.default_rng(len(shape))
    for dtype, tolerance in ((np.float32, 2e-6), (np.float64, 1e-14)):
        x, dy = (3 * rng.standard_normal(shape)).astype(dtype), rng.standard_normal(shape).astype(dtype)
        want = line_by_line(x, dy, axis)
        for name in ("contiguous", "channels_last", "transposed", "negative"):
            with engine.running() as backend:
                y, ctx = cc.ops.softmax(LAYOUTS[name](x), axis=axis, backend=backend)
                got = to_host((y, *ctx.backward(LAYOUTS[name](dy))))
            for a, b in zip(got, want, strict=True):
                assert a.shape == shape and a.dtype == dtype
                np.testing.assert_allclose(a, b, atol=tolerance * max(1, abs(b).max()), err_msg=name)


def test_the_default_is_axis_1():
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    np.testing.assert_array_equal(cc.ops.softmax(x)[0], cc.ops.softmax(x, axis=1)[0])
    np.testing.assert_allclose(cc.ops.softmax(x)[0].sum(axis=1), 1, rtol=1e-14)


def test_one_axis_must_be_named():
    """An x of one axis has no axis 1, and the message says what to write."""
    x = np.arange(3.0)
    with pytest.raises(
        ShapeError, match=r"softmax: x must be an array with an axis 1, got shape \(3,\); name one from"
    ):
        cc.ops.softmax(x)
    for axis in (0, -1):
        e = np.exp(x)
        np.testing.assert_allclose(cc.ops.softmax(x, axis=axis)[0], e / e.sum(), rtol=1e-14)


@pytest.mark.parametrize(("shape", "axis"), AXES)
def test_gradcheck(shape, axis):
    shape = tuple(min(n, 3) for n in shape)
    assert cc.gradcheck(cc.ops.softmax, (np.random.default_rng(1).standard_normal(shape),), axis=axis).ok
