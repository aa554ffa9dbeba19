"""Sums keep their digits, however long they are: every op that sums, on every backend and instruction set.

The terms are positive, so that a result's relative error is that of its sum: constant ones, whose roundings all go one
way, and random ones. The reference is the C kernel in float64 on the same float32 numbers: that it computes what it
should is test_backends.py's subject, and the definition would take minutes of windows so long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bounds import outputs_of
from engines import NATIVE, Engine, to_host

from cnncore.backends import select
from cnncore.ops.op import run
from cnncore.ops.records import registry

EPS = float(np.finfo(np.float32).eps)
HOSTS = [*NATIVE, Engine("numpy")]
LENGTHS = (1_000, 100_000)
Make = Callable[[Callable[..., np.ndarray], int], tuple[tuple[Any, ...], dict[str, Any]]]


def square(n: int) -> tuple[int, int]:
    """Two factors whose product is about n."""
    side = int(n**0.5)
    return side, n // side


def _labels(n: int, k: int) -> np.ndarray:
    return np.arange(n) % k


def _global(f: Callable[..., np.ndarray], n: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (f(1, 5, *square(n)),), {}


def _window(**attrs: Any) -> Make:
    """One window, over which every element of x is summed."""
    return lambda f, n: ((f(1, 5, *square(n)),), {"kernel": square(n), **attrs})


def _contrast(f: Callable[..., np.ndarray], n: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (f(1, n, 1, 3),), {"kernel": 1}


# Problems with a sum of about n terms, by the op and what is summed: f(*shape) makes an array.
SUMS: dict[str, Make] = {
    "avg_pool over a window": _window(),
    "avg_pool with padding": _window(padding=3, count_include_pad=True),
    "global_avg_pool": _global,
    "lp_pool 2": _window(),
    "lp_pool 1": _window(p=1.0, normalize=True),
    "lp_pool 3.5": _window(p=3.5, normalize=True),
    "global_lp_pool": _global,
    "gaussian_lp_pool": _window(sigma=1e4),
    "global_gaussian_lp_pool": lambda f, n: (_global(f, n)[0], {"sigma": 1e4}),
    "expectation_pool": _window(),
    "global_expectation_pool": _global,
    "expectation_pool 1.5": _window(power=1.5),
    "entropy_pool": _window(),
    "global_entropy_pool": _global,
    "softmax": lambda f, n: ((f(3, n),), {}),
    "softmax over an inner axis": lambda f, n: ((f(2, n, 3),), {}),
    "softmax over the first axis": lambda f, n: ((f(n, 3),), {"axis": 0}),
    "softmax_cross_entropy over the batch": lambda f, n: ((f(n, 3), _labels(n, 3)), {}),
    "softmax_cross_entropy over classes": lambda f, n: ((f(3, n), _labels(3, n)), {}),
    "linear over features": lambda f, n: ((f(3, n), f(5, n), f(5)), {}),
    "linear over the batch": lambda f, n: ((f(n, 3), f(5, 3), f(5)), {}),
    "linear over outputs": lambda f, n: ((f(3, 2), f(n, 2), None), {}),
    "conv over channels": lambda f, n: ((f(1, n, 1, 2), f(9, n, 1, 1), f(9)), {"algorithm": "direct"}),
    "conv over maps": lambda f, n: ((f(1, 3, 1, 2), f(n, 3, 1, 1), None), {"algorithm": "direct"}),
    "conv over pixels": lambda f, n: ((f(2, 3, *square(n // 2)), f(9, 3, 3, 3), f(9)), {"padding": 1}),
    "conv over many maps' pixels": lambda f, n: ((f(1, 16, *square(n)), f(16, 16, 3, 3), f(16)), {"padding": 1}),
    "conv_relu over channels": lambda f, n: ((f(1, n, 1, 2), f(9, n, 1, 1), f(9)), {}),
    "subtractive_norm over maps": _contrast,
    "divisive_norm over maps": _contrast,
    "divisive_norm over pixels": lambda f, n: ((f(1, 2, *square(n)),), {"kernel": 3}),
    "lrn over maps": lambda f, n: ((f(1, n, 1, 2),), {"size": 2 * n, "alpha": 0.5}),
    "lrn_within": lambda f, n: ((f(1, 2, n),), {"kernel": min(n, 3_000), "alpha": 0.5}),
    "lp_unit over pieces": lambda f, n: ((f(1, n, 1, 3), 2 * f(1), None), {"pieces": n}),
    "lp_unit over pixels": lambda f, n: ((f(1, 6, *square(n)), 2 * f(3), 0 * f(6)), {"pieces": 2}),
}


# Gradients that are differences of sums, 0 for a constant dy; and what is a difference of large terms.
DIFFERENCES = ("softmax", "subtractive_norm", "divisive_norm")
BOUND = 16 * EPS  # of what is the sum of a run of terms
WIDER = {  # lrn's gradient is a difference; a convolution adds up as many as 1024 products before it rounds anew
    "lrn over maps": 64 * EPS,
    "conv over channels": 128 * EPS,
    "conv over maps": 128 * EPS,
    "conv_relu over channels": 128 * EPS,
}


def _error(got: Any, want: np.ndarray) -> float:
    """Relative to the largest."""
    error, size = float(np.max(np.abs(got.astype(np.float64) - want))), float(np.max(np.abs(want)))
    return error / size if error else 0.0


def errors(what: str, n: int, kind: str, engine: Engine) -> dict[str, float]:
    """The relative error of every output and gradient of a problem."""
    op, rng = registry[what.split()[0]], np.random.default_rng(n)

    def random(*shape: int) -> np.ndarray:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)

    def make(*shape: int) -> np.ndarray:
        return np.full(shape, 0.1, np.float32) if kind == "constant" else random(*shape)

    arrays, attrs = SUMS[what](make, n)
    with engine.running() as backend:
        y, ctx = run(op, arrays, attrs, backend)
        dy = (random if what.startswith(DIFFERENCES) else make)(*np.shape(outputs_of(op, y)[0]))
        got = (*to_host(outputs_of(op, y)), *to_host(ctx.backward(dy)))
    exact = [a if a is None or a.dtype.kind == "i" else a.astype(np.float64) for a in arrays]
    z, exact_ctx = run(op, tuple(exact), {k: v for k, v in attrs.items() if k != "algorithm"}, "c")
    want = (*outputs_of(op, z), *exact_ctx.backward(dy.astype(np.float64)))
    names = ("y", *(f"d{name}" for name in op.names(arrays)))
    if what == "divisive_norm over pixels" and kind == "random":  # a pixel's r is by chance equal to the mean
        names = ("y",)
    if what.startswith("subtractive_norm") and kind == "constant":  # y is 0: test_norm.py
        got, want, names = got[1:], want[1:], names[1:]
    return {name: _error(g, w) for name, g, w in zip(names, got, want, strict=False) if w is not None}


def lengths(what: str, backend: str) -> tuple[int, ...]:
    """The definition goes over the elements of a window, or of a box, one after the other."""
    slow = backend == "numpy" and ("pool" in what or "lrn" in what)
    return (1_000, 5_000) if slow else (1_000, 100_000)


@pytest.mark.parametrize("what", SUMS)
@pytest.mark.parametrize("engine", HOSTS, ids=str)
def test_no_digit_is_lost_to_the_length(what, engine):
    """One bound for all lengths: that of a run of terms."""
    for n in lengths(what, engine.backend):
        for kind in ("constant", "random"):
            for name, error in errors(what, n, kind, engine).items():
                assert error <= WIDER.get(what, BOUND), f"{what}, {name}, {kind}, {n} terms: {error / EPS:.1f} eps"


@pytest.mark.skipif(select.why_not("cuda") is not None, reason="no CUDA, nor its simulator")
@pytest.mark.parametrize(
    "what",
    [
        "avg_pool over a window",
        "expectation_pool",
        "entropy_pool",
        "lp_pool 1",
        "softmax",
        "softmax_cross_entropy over the batch",
        "linear over features",
        "linear over the batch",
        "divisive_norm over maps",
        "lp_unit over pieces",
    ],
)
def test_no_digit_is_lost_on_the_device(what):
    """Short sums, for the simulator is slow; of 2,500 equal terms float32 errs by 200 eps, one after the other."""
    for name, error in errors(what, 2_500, "constant", Engine("cuda")).items():
        assert error <= BOUND, f"{what}, {name}: {error / EPS:.1f} eps"


@pytest.mark.parametrize("engine", HOSTS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 224, 224), (1, 3, 1000, 1000), (2, 17, 60, 61)])
def test_the_mean_of_a_constant_image_is_the_constant(shape, engine):
    if engine.backend == "numpy" and shape[-1] > 60:
        shape = (1, 1, 60, 60)
    x = np.full(shape, 0.1, np.float32)
    for layout in (x, np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)):
        with engine.running() as backend:
            y, _ = run(registry["global_avg_pool"], (layout,), {}, backend)
        assert abs(y - 0.1).max() <= 2e-7


@pytest.mark.parametrize("engine", NATIVE, ids=str)
def test_where_windows_overlap_far_their_gradients_keep_their_digits(engine):
    """A pixel in the middle lies in 40 x 40 windows."""
    x = np.full((1, 20, 80, 80), 0.1, np.float32)
    for name, attrs in (("avg_pool", {}), ("lp_pool", {}), ("expectation_pool", {}), ("entropy_pool", {})):
        got, want = [], []
        for dtype, into in ((np.float32, got), (np.float64, want)):
            with engine.running() as backend:
                y, ctx = run(registry[name], (x.astype(dtype),), {"kernel": 40, "stride": 1, **attrs}, backend)
                into.append(ctx.backward(np.full(y.shape, 0.1, dtype))[0])
        assert _error(got[0], want[0]) <= 2 * BOUND, name


@pytest.mark.parametrize("engine", HOSTS, ids=str)
def test_infinite_terms_and_nan_stay_what_they_are(engine):
    """A run that is not finite makes the sum so."""
    for value, want in ((np.inf, np.inf), (-np.inf, -np.inf), (np.nan, np.nan)):
        x = np.ones((1, 9, 50, 40), np.float32)
        x[0, 4, 37, 11] = value
        with engine.running() as backend:
            y, _ = run(registry["global_avg_pool"], (x,), {}, backend)
        assert np.array_equal(y[0, 4].ravel(), [want], equal_nan=True)
        assert np.array_equal(np.delete(y.ravel(), 4), np.ones(8))
