"""Normalisation at its limits: no neighbours' weight, windows over everything, maps that hold nothing but one value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from engines import ENGINES, Engine, to_host

import cnncore as cc
from cnncore.errors import CnncoreError, ShapeError
from cnncore.ops.contrast import blur

RNG = np.random.default_rng(0)
WHO = ["numpy", *ENGINES]
engines = pytest.mark.parametrize("engine", WHO, ids=str)


def compute(engine, op, x, dy=None, **attrs):
    """(y, dx) on an engine; dy defaults to ones."""
    if engine == "numpy":
        y, ctx = op(x, backend="numpy", **attrs)
        return y, ctx.backward(np.ones_like(x) if dy is None else dy)[0]
    with engine.running() as backend:
        y, ctx = op(x, backend=backend, **attrs)
        return to_host((y, *ctx.backward(np.ones_like(x) if dy is None else dy)))


# --- local response normalisation ---


@engines
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.0, 1.3])
def test_without_alpha_it_is_a_factor(engine, beta):
    x = RNG.standard_normal((2, 5, 3, 4))
    for op, attrs in ((cc.ops.lrn, {"size": 3}), (cc.ops.lrn_within, {"kernel": 3})):
        y, dx = compute(engine, op, x, alpha=0.0, beta=beta, k=3.0, **attrs)
        np.testing.assert_allclose(y, x / 3**beta, rtol=1e-14)
        np.testing.assert_allclose(dx, np.full_like(x, 3**-beta), rtol=1e-14)


@engines
def test_a_window_over_everything_is_one_divisor(engine):
    x = RNG.standard_normal((2, 6, 3, 4))
    across = 2 + 0.3 * np.sum(x * x, axis=1, keepdims=True)
    for size in (11, 12, 13, 2**31 - 1):  # a window of 11 reaches from the first of 6 maps to the last
        y, _ = compute(engine, cc.ops.lrn, x, size=size, alpha=0.3)
        np.testing.assert_allclose(y, x / across**0.75, rtol=1e-14)
    within = 2 + 0.3 * np.sum(x * x, axis=(2, 3), keepdims=True)
    for kernel in ((5, 7), 8, (2**31 - 1, 7)):
        y, _ = compute(engine, cc.ops.lrn_within, x, kernel=kernel, alpha=0.3)
        np.testing.assert_allclose(y, x / within**0.75, rtol=1e-14)


@engines
def test_an_even_window_reaches_farther_behind(engine):
    """Of size 2: the element itself and the next."""
    x = np.zeros((1, 5, 5))
    x[0, 2, 2] = 2.0
    for op, attrs, axis in ((cc.ops.lrn, {"size": 2}, 1), (cc.ops.lrn_within, {"kernel": 2}, 2)):
        probe = x + 1e-3
        y, _ = compute(engine, op, probe, alpha=1.0, beta=1.0, k=1.0, **attrs)
        reached = np.argwhere(y < 0.9e-3)
        line = [tuple(at)[axis] for at in reached if tuple(at)[3 - axis] == 2]
        assert line == [1], "of the small elements, the one in front of the large one alone sees it"


@engines
def test_alpha_over_size_divides_by_the_whole_window(engine):
    """Quotients that are exact, so that both calls compute the same."""
    x = RNG.standard_normal((1, 4, 5, 5))
    one = compute(engine, cc.ops.lrn, x, size=3, alpha=0.75, alpha_over_size=True)
    two = compute(engine, cc.ops.lrn, x, size=3, alpha=0.25)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    one = compute(engine, cc.ops.lrn_within, x, kernel=(3, 2), alpha=0.75, alpha_over_size=True)
    two = compute(engine, cc.ops.lrn_within, x, kernel=(3, 2), alpha=0.125)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@engines
@pytest.mark.parametrize("large", [1e15, 1e20, math.inf])
def test_what_is_large_touches_its_window_alone(engine, large):
    """Sums that slide by subtracting would leave their rounding, or a NaN, behind. The square of 1e20 is infinite."""
    x = np.ones((1, 9, 1, 9), np.float32)
    x[0, 3, 0, 3] = large
    for op, attrs, far in (
        (cc.ops.lrn, {"size": 3}, (slice(None), [0, 1, 5, 6, 7, 8])),
        (cc.ops.lrn_within, {"kernel": 3}, (slice(None), 3, slice(None), [0, 1, 5, 6, 7, 8])),
    ):
        with np.errstate(all="ignore"):
            y, _ = compute(engine, op, x, alpha=1.0, k=1.0, **attrs)
        alone, _ = compute("numpy", op, np.ones_like(x), alpha=1.0, k=1.0, **attrs)
        np.testing.assert_allclose(y[far], alone[far], rtol=1e-6)
        assert np.isnan(y[0, 3, 0, 3]) == math.isinf(large)
        near = y[0, 2:5, 0, 3] if op is cc.ops.lrn else y[0, 3, 0, 2:5]
        assert large == 1e15 or not near[[0, 2]].any()


@engines
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 1.25])
def test_the_power_is_within_2_units_in_the_last_place(engine, dtype, beta):
    """y of ones is k^-beta where alpha is 0; in double, as well as NumPy's long double can tell."""
    x = np.ones((1, 3, 13), dtype)
    drawn = np.exp(np.random.default_rng(0).uniform(-30, 30, 60))
    for k in np.array([278.1048829499807, *drawn], dtype):  # the first: sqrt(k) sqrt(sqrt(k)) erred by more
        y, _ = compute(engine, cc.ops.lrn, x, alpha=0.0, beta=beta, k=float(k))
        right = np.longdouble(k) ** -np.longdouble(beta)
        assert np.abs(y - right).max() <= 2 * np.spacing(dtype(right)), k


def test_krizhevskys_numbers_by_hand():
    """alexnet's lrn at the defaults: (2 + 1e-4 (9 + 16 + 4)) to the power 0.75."""
    x = np.array([[3.0, 4.0, 2.0]])
    y, _ = cc.ops.lrn(x)
    np.testing.assert_allclose(y, x / (2 + 1e-4 * 29) ** 0.75, rtol=1e-15)


@pytest.mark.parametrize(
    ("attrs", "error", "match"),
    [
        ({"size": 0}, ShapeError, "size must be at least 1"),
        ({"size": 2.5}, ShapeError, "size must be an integer"),
        ({"alpha": -1e-4}, CnncoreError, "alpha must be"),
        ({"beta": math.nan}, CnncoreError, "beta must be"),
        ({"k": 0.0}, CnncoreError, "k must be"),
        ({"alpha_over_size": 1}, CnncoreError, "alpha_over_size must be True or False"),
    ],
)
def test_bad_attributes_of_lrn(attrs, error, match):
    with pytest.raises(error, match=f"^lrn: {match}"):
        cc.ops.lrn(np.ones((1, 2, 3)), **attrs)


def test_bad_shapes_of_lrn():
    with pytest.raises(ShapeError, match="lrn: x must be"):
        cc.ops.lrn(np.ones(3))
    with pytest.raises(ShapeError, match="lrn_within: x must be"):
        cc.ops.lrn_within(np.ones((3, 3)), kernel=3)
    with pytest.raises(ShapeError, match="lrn_within: kernel must have one integer per spatial axis"):
        cc.ops.lrn_within(np.ones((1, 1, 3, 3)), kernel=(3, 3, 3))


# --- local contrast normalisation ---


@engines
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.3, -7.0, 255, 1 / 3, 1e6, -1e-6, 1e30])
def test_a_constant_image_has_no_contrast(engine, dtype, value):
    """Exactly, up to the borders and whatever its value: no rounding is left for divisive_norm to make large."""
    x = np.full((2, 3, 6, 7), value, dtype)
    x[1] = 2 * x[0] + 1
    v, _ = compute(engine, cc.ops.subtractive_norm, x, kernel=5)
    assert not v.any()
    y, dx = compute(engine, cc.ops.divisive_norm, v, kernel=5)
    assert not y.any() and np.isfinite(dx).all()
    y, dx = compute(engine, cc.ops.divisive_norm, np.zeros_like(x), kernel=5, floor=0.5)
    assert not y.any() and (dx == 2).all()


@engines
@pytest.mark.parametrize("shape", [(1, 1, 40, 40), (2, 3, 33), (1, 20, 5, 9, 4), (1, 2, 70, 3)])
def test_contrast_norm_of_a_constant_image(engine, shape):
    shape = tuple(min(n, 6) for n in shape) if str(engine) == "cuda" else shape
    with Engine("numpy").running() if engine == "numpy" else engine.running() as backend, cc.use_backend(backend):
        for value in (255, 1e6, 0.1, 1e-6):
            x = np.full(shape, value, np.float32)
            for layout in (x, np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)):
                assert not cc.layers.ContrastNorm().apply(layout)[0].any()


@engines
@pytest.mark.parametrize("first", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_reference(engine, first):
    """The first element, which the others are taken less if it is a number, spoils its surroundings alone."""
    x = RNG.standard_normal((1, 1, 12, 3)).astype(np.float32)
    x[0, 0, 0, 0] = first
    v, _ = compute(engine, cc.ops.subtractive_norm, x, kernel=3)
    assert np.isfinite(v[0, 0, 3:]).all() and not np.isfinite(v[0, 0, 0, 0])


@engines
def test_a_window_of_one_is_the_mean_over_maps(engine):
    x = RNG.standard_normal((2, 4, 3, 5))
    v, dx = compute(engine, cc.ops.subtractive_norm, x, kernel=1)
    np.testing.assert_allclose(v, x - x.mean(axis=1, keepdims=True), atol=1e-14)
    np.testing.assert_allclose(dx, 0, atol=1e-14)  # a shift of all maps changes nothing
    r = np.sqrt((x * x).mean(axis=1, keepdims=True))
    y, _ = compute(engine, cc.ops.divisive_norm, x, kernel=1)
    np.testing.assert_allclose(y, x / np.maximum(r, r.mean(axis=(2, 3), keepdims=True)), rtol=1e-13)


@engines
def test_a_wide_gaussian_over_everything_is_the_mean_of_the_image(engine):
    x = RNG.standard_normal((2, 3, 4, 5))
    v, _ = compute(engine, cc.ops.subtractive_norm, x, kernel=2**31 - 1, sigma=1e9)
    np.testing.assert_allclose(v, x - x.mean(axis=(1, 2, 3), keepdims=True), atol=1e-13)
    y, dx = compute(engine, cc.ops.divisive_norm, x, kernel=99, sigma=1e9)
    np.testing.assert_allclose(y, x / np.sqrt((x * x).mean(axis=(1, 2, 3), keepdims=True)), rtol=1e-13)
    np.testing.assert_allclose((dx * x).sum(axis=(1, 2, 3)), 0, atol=1e-12)  # y does not depend on the scale of x


@engines
def test_contrast_does_not_depend_on_brightness_or_scale(engine):
    x = RNG.standard_normal((1, 2, 9, 9))

    def norm(x):
        return compute(engine, cc.ops.divisive_norm, compute(engine, cc.ops.subtractive_norm, x)[0])[0]

    np.testing.assert_allclose(norm(1000 * x + 500), norm(x), atol=1e-11)


@engines
def test_the_gradients_at_the_floor(engine):
    """Where the floor is the divisor, nothing flows through it."""
    x, dy = 1e-3 * RNG.standard_normal((2, 2, 4, 4)), RNG.standard_normal((2, 2, 4, 4))
    y, dx = compute(engine, cc.ops.divisive_norm, x, dy, kernel=3, floor=0.1)
    np.testing.assert_allclose(y, x / 0.1, rtol=1e-15)
    np.testing.assert_allclose(dx, dy / 0.1, rtol=1e-15)


@engines
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_equal_deviations_the_mean_divides(engine, dtype):
    """Every r is the same but for rounding; each engine, position by position, must take the mean, not r."""
    x = np.full((2, 3, 7, 5), 0.3, dtype) * RNG.choice(np.array([-1, 1], dtype), (2, 3, 7, 5))
    dy = RNG.standard_normal(x.shape).astype(dtype)
    y, dx = compute(engine, cc.ops.divisive_norm, x, dy, kernel=5)
    np.testing.assert_allclose(y, np.sign(x), rtol=200 * np.finfo(dtype).eps)
    u = -(dy * x).sum(axis=1) / 0.3**2
    e = np.broadcast_to(u.mean(axis=(1, 2), keepdims=True) / 0.3, u.shape)
    given = blur(e.astype(np.float64), cc.ops.divisive_norm.op.rule(x, kernel=5).params, turned=True)
    np.testing.assert_allclose(dx, dy / 0.3 + x * given[:, None] / 3, atol=2000 * np.finfo(dtype).eps)
    assert (compute(engine, cc.ops.divisive_norm, np.ones_like(x), dy, floor=1.0)[1] == dy).all()  # and before it floor


@engines
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inf_and_nan_spoil_their_image_and_no_other(engine, dtype):
    for value in (np.inf, np.nan):
        x = RNG.standard_normal((2, 3, 6, 7)).astype(dtype)
        x[0, 1, 2, 3] = value
        with np.errstate(invalid="ignore"):
            y, dx = compute(engine, cc.ops.divisive_norm, x, kernel=3)
            alone, dx_alone = compute(engine, cc.ops.divisive_norm, x[1:], kernel=3)
        np.testing.assert_array_equal(y[1:], alone)
        np.testing.assert_array_equal(dx[1:], dx_alone)
        nan = np.isnan(y[0])
        assert nan[1, 2, 3] and np.isnan(dx[0]).all()
        assert nan.all() if np.isnan(value) else nan.sum() == 1 and not y[0][~nan].any()


@engines
def test_squares_that_overflow_or_vanish(engine):
    """In float32; as the docstring says."""
    x = RNG.standard_normal((1, 3, 6, 7)).astype(np.float32)
    with np.errstate(over="ignore"):
        y, dx = compute(engine, cc.ops.divisive_norm, x * np.float32(1e25), kernel=3)
        assert not y.any() and not dx.any()
        y, dx = compute(engine, cc.ops.divisive_norm, x * np.float32(1e-30), kernel=3, floor=0.5)
    np.testing.assert_array_equal(y, x * np.float32(1e-30) * 2)
    np.testing.assert_array_equal(dx, np.full_like(x, 2))


@pytest.mark.parametrize(
    ("attrs", "error", "match"),
    [
        ({"kernel": 0}, ShapeError, "kernel must be at least 1"),
        ({"kernel": (3, 3)}, ShapeError, "kernel must have one integer per spatial axis"),
        ({"sigma": 0.0}, CnncoreError, "sigma must be"),
        ({"sigma": "2"}, CnncoreError, "sigma must be"),
        ({"floor": 0.0}, CnncoreError, "floor must be"),
    ],
)
def test_bad_attributes_of_contrast(attrs, error, match):
    for op in (cc.ops.subtractive_norm, cc.ops.divisive_norm)["floor" in attrs :]:
        with pytest.raises(error, match=f"^{op.__name__}: {match}"):
            op(np.ones((1, 2, 3)), **attrs)
        with pytest.raises(ShapeError, match=f"^{op.__name__}: x must be"):
            op(np.ones((3, 3)))


# --- layers ---


def test_the_layers_are_the_ops():
    x = RNG.standard_normal((2, 6, 5, 4))
    layer = cc.layers.LocalResponseNorm(5, alpha=0.1)
    np.testing.assert_array_equal(layer.forward(x), cc.ops.lrn(x, size=5, alpha=0.1)[0])
    within = cc.layers.LocalResponseNormWithin(3, 0.1, 0.5, 1.0)
    np.testing.assert_array_equal(within.forward(x), cc.ops.lrn_within(x, kernel=3, alpha=0.1, beta=0.5, k=1.0)[0])
    assert not layer.parameters() and "size=5" in repr(layer)


def test_contrast_norm_is_both_ops():
    x = RNG.standard_normal((2, 3, 6, 6))
    layer = cc.layers.ContrastNorm(5, 1.5, floor=0.01)
    y, ctx = layer.apply(x)
    v, first = cc.ops.subtractive_norm(x, kernel=5, sigma=1.5)
    want, second = cc.ops.divisive_norm(v, kernel=5, sigma=1.5, floor=0.01)
    np.testing.assert_array_equal(y, want)
    dy = RNG.standard_normal(x.shape)
    np.testing.assert_array_equal(ctx.backward(dy), first.backward(second.backward(dy)[0])[0])
    assert not layer.parameters() and not ctx.learns and "kernel_size=5" in repr(layer)
