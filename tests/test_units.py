"""maxout and lp_unit: limits, ties, and what their layers do."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from engines import ENGINES

import cnncore as cc
from cnncore import layers as ly
from cnncore.errors import CnncoreError, ShapeError

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
def test_maxout_of_as_many_pieces_as_a_byte_counts(engine):
    x = np.zeros((1, 512, 2))
    x[0, 255, 0], x[0, 256, 1] = 1, 1
    with engine.running() as backend:
        y, ctx = cc.ops.maxout(x, pieces=256, backend=backend)
        assert y.tolist() == [[[1, 0], [0, 1]]]
        assert np.flatnonzero(ctx.backward(np.array([[[2.0, 0], [0, 3]]]))[0]).tolist() == [510, 513]
    with pytest.raises(ShapeError, match="maxout: pieces must be at most 256, got 512"):
        cc.ops.maxout(x, pieces=512)


# --- lp_unit ---

VALUES = {np.float32: (1e30, 1e-30), np.float64: (1e300, 1e-300)}
everywhere = pytest.mark.parametrize("engine", ["numpy", *ENGINES], ids=str)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def rho_of(p):
    """softplus backwards"""
    return p - 1 + np.log(-np.expm1(1 - p))


def lp_unit(engine, x, p, center=None, **attrs):
    """y and the gradients to x, rho and the centers, for dy = 1; x is (maps, positions), one group."""
    rho = np.full(1, p if p < 0 else rho_of(p), x.dtype)  # a negative p stands for that rho
    with engine.running() if engine != "numpy" else contextlib.nullcontext("numpy") as backend:
        y, ctx = cc.ops.lp_unit(x[None], rho, center, pieces=len(x), backend=backend, **attrs)
        (dx, drho, dcenter) = ctx.backward(np.ones_like(y))
    return y[0, 0], dx[0], drho, dcenter


@everywhere
@dtypes
@pytest.mark.parametrize("p", [1.2, 2.0, 50.0])
def test_windows_of_zeros_give_zero(engine, dtype, p):
    x, center = np.full((3, 10), 0.25, dtype), np.full(3, 0.25, dtype)
    for y, *gradients in (lp_unit(engine, x, p, center, kernel=3), lp_unit(engine, 0 * x, p, center * 0)):
        assert not y.any() and not any(g.any() for g in gradients)


@everywhere
@dtypes
def test_ties_share(engine, dtype):
    """Of m equal magnitudes among n, with all else 0: y = v (m/n)^(1/p); each gets (m/n)^(1/p) / m, zeros nothing."""
    x, eps = np.zeros((5, 3), dtype), np.finfo(dtype).eps
    x[1], x[4] = 7, -7
    for p in (1.3, 2.0, 9.0):
        y, dx, drho, _ = lp_unit(engine, x, p)
        root = (2 / 5) ** (1 / p)
        np.testing.assert_allclose(y, 7 * root, rtol=20 * eps)
        np.testing.assert_allclose(dx, np.sign(x) * root / 2, rtol=20 * p * eps)
        to_p = -7 * root / p**2 * np.log(2 / 5)  # of one unit
        np.testing.assert_allclose(drho, 3 * to_p / (1 + np.exp(-rho_of(p))), rtol=100 * p * eps)


@everywhere
@dtypes
def test_with_p_1_it_is_the_mean_magnitude(engine, dtype):
    """rho very negative; where z is 0, no gradient, although |z|^(p-1) is 1 there."""
    x, eps = np.array([[1, -2, 0], [4, 0, 0]], dtype), np.finfo(dtype).eps
    y, dx, drho, dcenter = lp_unit(engine, x, -500.0, np.zeros(2, dtype))
    np.testing.assert_allclose(y, [2.5, 1, 0], rtol=8 * eps)
    np.testing.assert_allclose(dx, np.sign(x) / 2, rtol=8 * eps)
    np.testing.assert_allclose(dcenter, [0, -0.5], atol=8 * eps)
    assert np.isfinite(drho).all() and abs(drho) < 1e-30  # p no longer depends on rho


@everywhere
@dtypes
@pytest.mark.parametrize("size", [0, 1, 2], ids=["large", "small", "1"])
def test_with_p_50_nothing_overflows(engine, dtype, size):
    """At 1e30, at 1e-30 and at 1 the same numbers, times the size."""
    v = (*VALUES[dtype], 1.0)[size]
    x = RNG.uniform(0.5, 1, (4, 6)) * RNG.choice([-1, 1], (4, 6))
    center = np.array([0.01, 0, -0.02, 0.1])
    want = lp_unit("numpy", x, 50.0, center)
    y, dx, drho, dcenter = lp_unit(engine, (x * v).astype(dtype), 50.0, (center * v).astype(dtype))
    rtol = 2000 * np.finfo(dtype).eps
    np.testing.assert_allclose(y / v, want[0], rtol=rtol)
    np.testing.assert_allclose(dx, want[1], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(drho / v, want[2], rtol=rtol)
    np.testing.assert_allclose(dcenter, want[3], rtol=rtol, atol=rtol)


@everywhere
@dtypes
def test_a_huge_p_is_the_maximum(engine, dtype):
    x = np.array([[1, -3, 2], [-5, 3, 2], [4, 1, 2]], dtype)
    y, dx, drho, _ = lp_unit(engine, x, 1e9)
    np.testing.assert_allclose(y, [5, 3, 2], rtol=1e-6)
    np.testing.assert_allclose(dx, [[0, -0.5, 1 / 3], [-1, 0.5, 1 / 3], [0, 0, 1 / 3]], atol=1e-6)
    assert abs(drho) < 1e-12


@everywhere
@dtypes
def test_inf_and_nan_spoil_their_windows_and_no_other(engine, dtype):
    """Inf gives Inf, NaN gives NaN; the gradient to all elements of the window, centers and rho is NaN."""
    x = np.array([[1, 2, np.inf, -np.inf, np.nan, 0, 3], [1, 0, 1, np.inf, np.inf, np.nan, 4]], dtype)
    plain = [0, 1, 6]
    with np.errstate(all="ignore"):
        y, dx, drho, dcenter = lp_unit(engine, x, 3.0, np.zeros(2, dtype))
        want = lp_unit(engine, np.ascontiguousarray(x[:, plain]), 3.0, np.zeros(2, dtype))
    np.testing.assert_array_equal(y[2:6], [np.inf, np.inf, np.nan, np.nan])
    np.testing.assert_allclose(y[plain], want[0], rtol=4 * np.finfo(dtype).eps)
    assert np.isnan(dx[:, 2:6]).all() and np.isnan(drho).all() and np.isnan(dcenter).all()
    np.testing.assert_allclose(dx[:, plain], want[1], rtol=4 * np.finfo(dtype).eps)


@everywhere
def test_gradients_in_rho_and_center_near_zero_z(engine):
    """Central differences of the definition at an element close to its center, where |z|^(p-1) is steep."""
    x, center = np.array([[0.3, 1.0], [0.7, -1.0]]), np.array([0.299, -0.5])
    _, _, drho, dcenter = lp_unit(engine, x, 1.5, center)

    def total(move, along):
        rho = np.array([rho_of(1.5)])
        y, _ = cc.ops.lp_unit(
            x[None], rho + move * (along == 2), center + move * (np.arange(2) == along), pieces=2, backend="numpy"
        )
        return float(y.sum())

    slopes = [(total(1e-6, i) - total(-1e-6, i)) / 2e-6 for i in range(3)]
    np.testing.assert_allclose([*dcenter, *drho], slopes, rtol=1e-5)


@everywhere
def test_one_piece_and_kernel_1_is_the_magnitude(engine):
    x = RNG.standard_normal((1, 9))
    y, dx, drho, _ = lp_unit(engine, x, 2.7)
    np.testing.assert_allclose(y, np.abs(x[0]), rtol=1e-14)
    np.testing.assert_allclose(dx, np.sign(x), rtol=1e-14)
    np.testing.assert_allclose(drho, 0, atol=1e-13)


def test_p_2_is_the_root_mean_square_of_windows():
    """Against PyTorch-like arithmetic written out: padding is no element."""
    x = RNG.standard_normal((2, 6, 5, 4))
    y, _ = cc.ops.lp_unit(x, np.full(3, rho_of(2.0)), pieces=2, kernel=3, stride=2, padding=1)
    squares = np.pad((x * x).reshape(2, 3, 2, 5, 4).sum(axis=2), ((0, 0), (0, 0), (1, 1), (1, 1)))
    real = np.pad(np.full((5, 4), 2.0), 1)
    for i, j in np.ndindex(3, 2):
        at = (..., slice(2 * i, 2 * i + 3), slice(2 * j, 2 * j + 3))
        np.testing.assert_allclose(y[..., i, j], np.sqrt(squares[at].sum(axis=(-2, -1)) / real[at].sum()), rtol=1e-13)


def test_bad_shapes_of_lp_unit():
    x = np.ones((1, 6, 4))
    for rho, center, match in (
        (np.zeros(2), None, r"rho must have one value per result map, \(3,\), got \(2,\)"),
        (np.zeros(3), np.zeros(3), r"center must have a value per map of x, \(6,\), got \(3,\)"),
    ):
        with pytest.raises(ShapeError, match=f"^lp_unit: {match}"):
            cc.ops.lp_unit(x, rho, center, pieces=2)
    with pytest.raises(ShapeError, match=r"^lp_unit: x's maps \(6\) must be a multiple of pieces \(4\)"):
        cc.ops.lp_unit(x, np.zeros(1), pieces=4)


def test_gradient_descent_recovers_a_planted_p():
    """And planted centers. The layer reports its norms: 2 before, the planted ones after."""
    x = RNG.standard_normal((64, 6, 5))
    planted, centers = np.array([1.4, 3.0]), 0.3 * RNG.standard_normal(6)
    target, _ = cc.ops.lp_unit(x, rho_of(planted), centers, pieces=3)
    layer = ly.LPUnit1d(2, 3, dtype=np.float64)
    np.testing.assert_allclose(layer.norms(), 2)
    for _ in range(800):
        layer.zero_grad()
        layer.backward((layer.forward(x) - target) / len(x), dx=False)
        layer.rho.value -= 8 * layer.rho.grad
        layer.center.value -= 0.5 * layer.center.grad
    np.testing.assert_allclose(layer.norms(), planted, rtol=1e-3)
    np.testing.assert_allclose(layer.center.value, centers, atol=1e-3)


def test_the_lp_unit_layer():
    x = RNG.standard_normal((2, 6, 5, 4))
    layer = ly.LPUnit2d(3, 2, 3, stride=2, padding=1, p=3.4, center=False, dtype=np.float64)
    y, ctx = layer.apply(x)
    want, reference = cc.ops.lp_unit(x, layer.rho.value, pieces=2, kernel=3, stride=2, padding=1)
    np.testing.assert_array_equal(y, want)
    dy = RNG.standard_normal(y.shape)
    np.testing.assert_array_equal(ctx.backward(dy), reference.backward(dy)[0])
    np.testing.assert_allclose(layer.norms(), 3.4)
    assert list(layer.parameters()) == ["rho"] and list(ly.LPUnit1d(2, 2).parameters()) == ["rho", "center"]
    assert repr(layer) == "LPUnit2d(3, 2, kernel_size=3, stride=2, padding=1)"
    assert repr(ly.LPUnit1d(2, 3)) == "LPUnit1d(2, 3)"
    for bad in (1.0, 0.5, float("nan")):
        with pytest.raises(CnncoreError, match="LPUnit2d: p must be more than 1"):
            ly.LPUnit2d(3, 2, p=bad)
    with pytest.raises(ShapeError, match="LPUnit1d: x must be"):
        ly.LPUnit1d(3, 2).forward(x)
