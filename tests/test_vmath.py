"""The vector functions of csrc/vmath.h over their whole range, on every instruction set, in units in the last place.

The reference is NumPy's: for float its float64, for double the C library's (which errs by less than one unit itself);
for log and pow its long double, which on x86 has 11 bits more.
"""

from __future__ import annotations

import numpy as np
import pytest
from engines import NATIVE

from cnncore.ops.op import run
from cnncore.ops.records import registry

natives = pytest.mark.parametrize("engine", NATIVE, ids=str)


def call(engine, name, *arrays):
    """One function of vmath.h, element by element."""
    from cnncore.backends import library

    module = library._module(engine.isa)
    y = np.full_like(arrays[0], np.nan)
    kernel = getattr(module.lib, f"cc_{name}_{'f32' if y.dtype == np.float32 else 'f64'}")
    types = module.ffi.typeof(kernel).args[:-1]
    kernel(*(module.ffi.cast(t, a.ctypes.data) for t, a in zip(types, (y, *arrays), strict=True)), y.size)
    return y


def exp(engine, x):
    return call(engine, "exp", x)


def power(engine, x, e):
    return call(engine, "pow", x, np.full_like(x, e))


def worst(got, want, dtype):
    """The largest error in units in the last place of the result; both must be infinite at the same places."""
    limit = float(np.finfo(dtype).max)
    want = np.asarray(want)
    finite = np.isfinite(got)
    assert (np.abs(want[~finite]) >= limit * (1 - 1e-6)).all() and not np.isnan(got).any()
    below = np.nextafter(dtype(limit), dtype(0))  # NumPy's spacing of the largest number is infinite
    unit = np.spacing(np.minimum(np.abs(want[finite]), below).astype(dtype)).astype(want.dtype)
    return np.max(np.abs(got[finite].astype(want.dtype) - want[finite]) / unit)


def floats(step):
    """Every `step`-th of all finite float32 numbers, of both signs."""
    bits = np.arange(0, 0x7F800000, step, np.uint32)
    positive = bits.view(np.float32)
    return np.concatenate([positive, -positive])


def reals(low, high):
    """Doubles in [low, high], dense everywhere, and tiny ones."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.uniform(low, high, 300_000), rng.normal(size=100_000), 10.0 ** -np.arange(0.0, 323)])


@natives
def test_exp_of_floats(engine):
    x = floats(997)
    x = np.concatenate([x, np.linspace(-110, 95, 1_000_001, dtype=np.float32)])
    with np.errstate(over="ignore"):
        assert worst(exp(engine, x), np.exp(x.astype(np.float64)), np.float32) < 2


@natives
def test_exp_of_doubles(engine):
    x = reals(-750, 715)
    with np.errstate(over="ignore"):
        assert worst(exp(engine, x), np.exp(x), np.float64) < 3  # one of them the reference's


@natives
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_at_the_ends(engine, dtype):
    info = np.finfo(dtype)
    x = np.array([np.inf, -np.inf, np.nan, -np.nan, 0.0, -0.0, info.smallest_subnormal, -info.max, info.max, 1], dtype)
    want = [np.inf, 0, np.nan, np.nan, 1, 1, 1, 0, np.inf, np.exp(dtype(1))]
    np.testing.assert_allclose(exp(engine, x), want, rtol=2 * info.eps)
    edge = dtype(np.log(info.tiny)) - 3  # a subnormal result keeps all its bits
    got = exp(engine, np.array([edge]))
    assert 0 < got[0] < info.tiny and worst(got, np.exp(np.array([edge], np.float64)), dtype) < 2


def positives(dtype):
    """Numbers from the smallest to the largest, evenly by their bits; all subnormals' sizes; dense about 1."""
    info = np.finfo(dtype)
    bits = np.uint32 if dtype == np.float32 else np.uint64
    rng = np.random.default_rng(0)
    return np.concatenate([
        np.linspace(1, float(np.array(info.max).view(bits)), 200_001).astype(bits).view(dtype),
        info.smallest_subnormal * np.arange(1, 100, dtype=dtype),
        rng.uniform(0.4, 2.5, 100_000).astype(dtype),
        (1 + rng.normal(0, 1e-3, 100_000)).astype(dtype),
        np.array([1 - info.epsneg, 1, 1 + info.eps, info.tiny, info.max], dtype),
    ])  # fmt: skip


@natives
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log(engine, dtype):
    x = positives(dtype)
    assert worst(call(engine, "log", x), np.log(x.astype(np.longdouble)), dtype) < 1
    ends = np.array([0, -0.0, np.inf, np.nan, -1, -np.inf, 1], dtype)
    want = [-np.inf, -np.inf, np.inf, np.nan, np.nan, np.nan, 0]
    np.testing.assert_array_equal(call(engine, "log", ends), want)


EXPONENTS = (0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 11, 12, 49, 50, 999, 1000, 1 / 3, 1 / 3.5, 1 / 12, 1 / 50, 1 / 1000,
             -0.25, -0.75, -1, -1.75, -3, 1e-30, 1e7, -1e12, 1e30)  # fmt: skip


@natives
@pytest.mark.parametrize("e", EXPONENTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pow(engine, dtype, e):
    e = dtype(e)  # as the function sees it
    largest = np.log(float(np.finfo(dtype).max))
    with np.errstate(all="ignore"):
        finite = np.exp(np.linspace(-1.1 * largest, 1.1 * largest, 50_000) / float(e)).astype(
            dtype
        )  # all of the results
        x = np.concatenate([positives(dtype), finite[(finite > 0) & (finite < np.inf)]])
        want = np.power(x.astype(np.longdouble), np.longdouble(e))
    assert worst(power(engine, x, e), want, dtype) < 1.5


@natives
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pow_at_the_ends(engine, dtype):
    least = np.finfo(dtype).smallest_subnormal
    x = np.array([0, -0.0, np.inf, np.nan, -1, -np.inf, 1, least, 2], dtype)
    for e, want in [
        (0.75, [0, 0, np.inf, np.nan, np.nan, np.nan, 1]),
        (1e-30, [0, 0, np.inf, np.nan, np.nan, np.nan, 1, 1, 1]),
        (-0.75, [np.inf, np.inf, 0, np.nan, np.nan, np.nan, 1]),
        (0, [1] * 9),
        (1, [0, 0, np.inf, np.nan, np.nan, np.nan, 1, least, 2]),
        (np.inf, [0, 0, np.inf, np.nan, np.nan, np.nan, 1, 0, np.inf]),
        (-np.inf, [np.inf, np.inf, 0, np.nan, np.nan, np.nan, 1, np.inf, 0]),
        (np.nan, [np.nan] * 9),
    ]:
        np.testing.assert_array_equal(power(engine, x, e)[: len(want)], want, f"e = {e}")


@natives
def test_sigmoid_and_tanh_of_floats(engine):
    x = np.concatenate([floats(1999), np.linspace(-110, 110, 500_001, dtype=np.float32)])
    wide = x.astype(np.float64)
    with engine.running() as backend:
        y, _ = run(registry["tanh"], (x,), {}, backend)
        assert worst(y, np.tanh(wide), np.float32) < 2.5
        y, _ = run(registry["sigmoid"], (x,), {}, backend)
        with np.errstate(over="ignore"):
            assert worst(y, 1 / (1 + np.exp(-wide)), np.float32) < 2.5


@natives
def test_sigmoid_and_tanh_of_doubles(engine):
    x = reals(-40, 40)
    with engine.running() as backend:
        y, _ = run(registry["tanh"], (x,), {}, backend)
        assert worst(y, np.tanh(x), np.float64) < 5
        y, _ = run(registry["sigmoid"], (x,), {}, backend)
        assert worst(y, 1 / (1 + np.exp(-x)), np.float64) < 6


@natives
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_and_tanh_at_the_ends(engine, dtype):
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, np.finfo(dtype).smallest_subnormal, 1e30, -1e30], dtype)
    with engine.running() as backend:
        y, ctx = run(registry["tanh"], (x,), {}, backend)
        np.testing.assert_array_equal(y, [1, -1, np.nan, 0, 0, x[5], 1, -1])
        assert np.signbit(y[4]) and not np.signbit(y[3])
        np.testing.assert_array_equal(ctx.backward(np.ones_like(x))[0], [0, 0, np.nan, 1, 1, 1, 0, 0])
        y, ctx = run(registry["sigmoid"], (x,), {}, backend)
        np.testing.assert_array_equal(y, [1, 0, np.nan, 0.5, 0.5, 0.5, 1, 0])
        np.testing.assert_array_equal(ctx.backward(np.ones_like(x))[0], [0, 0, np.nan, 0.25, 0.25, 0.25, 0, 0])
