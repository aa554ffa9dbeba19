"""Pooling: a table of variants of one window walk (pool_walk.py). Kernels: csrc/pool.c, pool_power.c, pool_draw.c,
pool_cuda.py, pool_power_cuda.py.

A variant is two functions and a docstring. Each function works on all windows of a call at once (`Windows`):

    reduce(v, p)               -> (y, *extras)   y and the extras are (N, C, *O); a variant that draws takes (v, p, u)
    gradient(v, p, dy, *saved) -> dvalues        (N, C, *O, T): the gradient to every element of every window

To add a variant, write the two functions and one `variant(...)` entry. docs/pooling-variant.md shows a whole example.
The layers of an op and its name for `pool=` follow from the entry; `shown` says where they are not made of the op's
name.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import geometry
from .pool_walk import Number, Shown, Windows, variant
from .spec import Arrays
from .sums import total


def _at(v: Windows, winner: np.ndarray) -> np.ndarray:
    """(N, C, *O, T): True at the winner of every window, given the winner's number in its window."""
    return np.arange(v.real.shape[-1]) == winner[..., None]


def max_reduce(v: Windows, p: Any) -> Arrays:
    # np.argmax chooses the first NaN, or else the first of the largest elements. `fill` is -inf, so it may choose
    # padding in a window whose real elements are all -inf: there the winner is the first real element.
    first_real = np.argmax(v.real, axis=-1)
    winner = np.argmax(v.values, axis=-1)
    winner = np.where(np.take_along_axis(np.broadcast_to(v.real, v.values.shape), winner[..., None], -1)[..., 0],
                      winner, first_real)  # fmt: skip
    y = np.take_along_axis(v.values, winner[..., None], axis=-1)[..., 0]
    return y, winner.astype(np.int32)


def max_gradient(v: Windows, p: Any, dy: np.ndarray, winner: np.ndarray) -> np.ndarray:
    return np.where(_at(v, winner), dy[..., None], 0)


max_pool, global_max_pool = variant(
    "max_pool",
    max_reduce,
    max_gradient,
    fill=-math.inf,
    extras={"winner": np.int32},
    saved=("winner",),
    doc="""Max pooling: the largest element of every window.

    y = max over the window R of x.   Gradient: dy to the winner, 0 to the others.

    Edges: of equals the first in row-major order wins, and alone gets the gradient. A NaN in the window gives NaN (the
    first NaN wins). Padding never wins, not even against -inf.
    `winner`, kept for backward, is the winner's number in the window, row-major.
    Source: the paper's 2.2.""",
)


def relu_max_reduce(v: Windows, p: Any) -> Arrays:
    y, winner = max_reduce(v, p)
    below = y <= 0
    return np.where(below, 0, y).astype(y.dtype), np.where(below, -1, winner).astype(np.int32)


relu_max_pool, global_relu_max_pool = variant(
    "relu_max_pool",
    relu_max_reduce,
    max_gradient,
    shown=Shown(layer=None),
    fill=-math.inf,
    extras={"winner": np.int32},
    saved=("winner",),
    doc="""Max pooling of a = max(x, 0), fused: what ReLU followed by max pooling is to containers.

    y = max over the window R of max(x, 0), the same as max(0, max over R of x).   Gradient: dy to the winner, 0 to the
    others; where no element is positive nothing won.

    Edges: as for `max_pool` and `relu`: the first of equals wins, a NaN in the window gives NaN (the first NaN wins),
    and where the largest is 0 the gradient is 0.
    `winner`, kept for backward, is the winner's number in the window, row-major; -1 where no element is positive.
    Source: the paper's 1.3 and 2.2.""",
)


def avg_divisor(v: Windows, p: Any) -> np.ndarray:
    return v.n + v.padding.sum(axis=-1) if p.count_include_pad else v.n


def avg_reduce(v: Windows, p: Any) -> Arrays:
    return ((total(v.values, -1) / avg_divisor(v, p)).astype(v.values.dtype),)


def avg_gradient(v: Windows, p: Any, dy: np.ndarray) -> np.ndarray:
    share = (dy / avg_divisor(v, p)).astype(dy.dtype)
    return np.broadcast_to(share[..., None], (*dy.shape, v.real.shape[-1]))


avg_pool, global_avg_pool = variant(
    "avg_pool",
    avg_reduce,
    avg_gradient,
    attrs={"count_include_pad": False},
    local=("count_include_pad",),
    doc="""Average pooling: the mean of every window.

    y = (sum over R of x) / n, n the number of real elements in R.   Gradient: dy / n to each.

    Edges: with `count_include_pad` zero padding counts in n (unlike in PyTorch not by default); what `ceil_mode` lets a
    window hang over never does. NaN and Inf propagate.
    Source: the paper's 2.2.""",
)


# --- pools of powers. Let m be the largest |x| of a window. Powers are taken of |x| / m, which lies in [0, 1] and is 1
# at the largest element. So no power overflows, and a power that underflows to 0 is negligible beside the 1. Where m
# is 0, infinite or NaN, y is m.


def _scaled(a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three arrays, for a >= 0: the maximum m of every window; a / m; and whether m is positive and finite. Where m is
    not, 0 stands for a / m."""
    m = a.max(axis=-1)
    number = (m > 0) & (m < math.inf)
    safe = np.where(number, m, 1).astype(a.dtype)
    return m, np.where(number[..., None], a, 0) / safe[..., None], number


def _unscaled(m: np.ndarray, number: np.ndarray, share: np.ndarray) -> np.ndarray:
    """m * share where m is positive and finite (`number`), else m."""
    return np.where(number, np.where(number, m, 0) * share, m).astype(m.dtype)


def _first(a: np.ndarray, real: np.ndarray) -> np.ndarray:
    """For every window the number of its first NaN, or else of the first of its largest real elements."""
    return np.argmax(np.where(real, a, -1), axis=-1)


def _ratio(a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """a / y, and 0 where y is 0."""
    return a / np.where(y == 0, math.inf, y).astype(a.dtype)[..., None]


def _divisor(v: Windows, p: Any, dtype: Any) -> np.ndarray:
    return v.n.astype(dtype) if p.normalize else np.ones((), dtype)


def lp_reduce(v: Windows, p: Any) -> Arrays:
    a = np.abs(v.values)
    if math.isinf(p.p):
        return a.max(axis=-1), _first(a, v.real).astype(np.int32)
    m, r, number = _scaled(a)
    mean = total(r**p.p, -1) / _divisor(v, p, a.dtype)
    return _unscaled(m, number, mean ** (1 / p.p)), np.empty(0, np.int32)


def lp_gradient(v: Windows, p: Any, dy: np.ndarray, y: np.ndarray, winner: np.ndarray) -> np.ndarray:
    if math.isinf(p.p):
        return np.where(_at(v, winner), np.sign(v.values) * dy[..., None], 0)
    share = (dy / _divisor(v, p, dy.dtype))[..., None]
    slope = np.where((y == 0)[..., None], 0, _ratio(np.abs(v.values), y) ** (p.p - 1))
    return np.sign(v.values) * share * slope


lp_pool, global_lp_pool = variant(
    "lp_pool",
    lp_reduce,
    lp_gradient,
    attrs={"p": Number(2.0, 1.0, (2.0, 1.0, math.inf, 4.0, 3.5, 50.0), math.inf), "normalize": False},
    # By its name it is a mean, so that it lies between avg and max.
    shown=Shown("LPPool", leads="p", leads_as="norm_type", named={"normalize": True}),
    extras={"winner": np.int32},
    unused=lambda p: not math.isinf(p.p),
    saved=("x", "y", "winner"),
    doc="""Lp pooling: the p-norm of every window, 1 <= p <= inf.

    y = (sum over R of |x|^p)^(1/p); with `normalize` the mean in place of the sum. p = inf: max over R of |x|.
    Gradient: sign(x) (|x| / y)^(p-1), with `normalize` over n, n the number of real elements in R; p = inf: sign(x) at
    the first element whose |x| is largest, 0 at the others.

    From p = 1 (with `normalize` the mean of |x|) to p = inf (the max of |x|). Computed on |x| / max |x|, so that
    neither p = 1000 nor x = 1e30 overflows or vanishes.
    Edges: y and the gradient are 0 where the window is all zero, the gradient is 0 at x = 0. An infinite element gives
    inf, a NaN gives NaN.
    `winner`, kept for backward where p = inf, is the number in the window of the first largest |x|, row-major.
    Source: the paper's 2.4.""",
)


def envelope(window: geometry.Window, sigma: float) -> list[np.ndarray]:
    """For every axis an array (O, kernel): Gaussian weights over the real taps of every output, which sum to 1. The
    weight of an element of the window is the product of its weights along all axes.

    The exponent at the real tap nearest to the centre is subtracted from all exponents. So the weights cannot all
    underflow to 0."""
    weights = []
    for a, kernel in enumerate(window.kernel):
        start = np.arange(window.out[a]) * window.stride[a] - window.begin[a]
        place = start[:, None] + np.arange(kernel) * window.dilation[a]
        real = (place >= 0) & (place < window.size[a])
        far = np.broadcast_to(np.abs(np.arange(kernel) - (kernel - 1) / 2), place.shape)
        near = np.where(real, far, math.inf).min(axis=1, keepdims=True)
        g = np.where(real, np.exp(-np.where(real, (far - near) / sigma * ((far + near) / sigma), 0) / 2), 0)
        weights.append(g / g.sum(axis=1, keepdims=True))
    return weights


def _envelope(v: Windows, p: Any, dtype: Any) -> np.ndarray:
    """The weights of all elements, (*O, T)."""
    whole, rank = np.ones(()), len(p.window.out)
    for a, g in enumerate(envelope(p.window, p.sigma)):
        shape = [1] * (2 * rank)
        shape[a], shape[rank + a] = g.shape
        whole = whole * g.reshape(shape)
    return whole.reshape(v.real.shape).astype(dtype)


def gaussian_lp_reduce(v: Windows, p: Any) -> Arrays:
    m, r, number = _scaled(np.abs(v.values))
    mean = total(_envelope(v, p, r.dtype) * r**p.p, -1)
    return (_unscaled(m, number, mean ** (1 / p.p)),)


def gaussian_lp_gradient(v: Windows, p: Any, dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    slope = np.where((y == 0)[..., None], 0, _ratio(np.abs(v.values), y) ** (p.p - 1))
    return np.sign(v.values) * dy[..., None] * _envelope(v, p, dy.dtype) * slope


gaussian_lp_pool, global_gaussian_lp_pool = variant(
    "gaussian_lp_pool",
    gaussian_lp_reduce,
    gaussian_lp_gradient,
    attrs={"p": Number(2.0, 1.0, (2.0, 1.0, 4.0, 12.0, 3.5)), "sigma": Number(1.0, 1e-3, (1.0, 0.5, 2.0, 0.05))},
    shown=Shown("GaussianLPPool"),
    saved=("x", "y"),
    doc="""Lp pooling under a Gaussian envelope, 1 <= p < inf.

    y = (sum over R of G |x|^p)^(1/p), G = exp(-d^2 / (2 sigma^2)) with d the distance from the window's centre,
    (kernel - 1) / 2 along each axis, in elements (of the kernel: dilation does not count), of sum 1 over the real
    elements of R.   Gradient: G sign(x) (|x| / y)^(p-1).

    Made for windows that overlap, with p = 2, 4 or 12. Scaled as lp_pool is. sigma >= 0.001.
    Edges: y and the gradient are 0 where the window is all zero, the gradient is 0 at x = 0. An infinite element gives
    inf, a NaN gives NaN.
    Source: the paper's 2.4; Sermanet et al. 2012.""",
)


# --- pools of a = max(x, 0) ---


def _positive(v: Windows) -> np.ndarray:
    return np.maximum(v.values, 0)


def stochastic_reduce(v: Windows, p: Any, u: np.ndarray) -> Arrays:
    a = _positive(v)
    _, r, number = _scaled(a.astype(np.float64))
    weights = r * r if p.power == 2 else r**p.power
    running = np.cumsum(weights, axis=-1)  # added one after the other, in the order of every other backend
    passed = running > (u.astype(np.float64) * running[..., -1])[..., None]
    last = r.shape[-1] - 1 - np.argmax(weights[..., ::-1] > 0, axis=-1)
    winner = np.where(passed.any(axis=-1), np.argmax(passed, axis=-1), last)
    first = _first(a, v.real)  # the winner where the largest element is inf or NaN
    winner = np.where(number, winner, np.where(a.max(axis=-1) == 0, -1, first))
    y = np.take_along_axis(a, np.maximum(winner, 0)[..., None], axis=-1)[..., 0]
    return np.where(winner < 0, 0, y).astype(a.dtype), winner.astype(np.int32)


stochastic_pool, global_stochastic_pool = variant(
    "stochastic_pool",
    stochastic_reduce,
    max_gradient,
    attrs={"power": Number(1.0, 1.0, (1.0, 2.0, 1.0, 3.0))},
    draws=True,
    shown=Shown("StochasticPool", evaluates="expectation_pool"),
    extras={"winner": np.int32},
    saved=("winner",),
    doc="""Stochastic pooling: an element of every window, drawn by its size.

    y = a_l, a = max(x, 0), l drawn with P(i) = a_i^power / sum over R of a^power: the first whose running sum of
    a^power exceeds u times the total.   Gradient: dy to l, 0 to the others; none to u.

    Takes uniforms u in [0, 1) of y's shape, or a key (seed, counter). Running sums are row-major, in float64, of a
    divided by its largest, so that every backend draws the same element (where power is neither 1 nor 2: unless u is
    within 1e-6 of a boundary). power >= 1.
    Edges: the last positive element where rounding leaves none; 0 and zero gradient where no element is positive. An
    infinite element gives inf, a NaN gives NaN (of several the first, which gets the gradient).
    `winner`, kept for backward, is l's number in the window, row-major; -1 where nothing was drawn.
    Source: the paper's 2.5; Zeiler & Fergus 2013.""",
)


def expectation_reduce(v: Windows, p: Any) -> Arrays:
    m, r, number = _scaled(_positive(v))
    weights = r**p.power
    below = total(weights, -1)
    share = total(weights * r, -1) / np.where(number, below, 1)
    y = _unscaled(m, number, share)
    return y, np.where(number, below / np.where(number, share, 1) ** p.power, math.inf).astype(r.dtype)


def expectation_gradient(v: Windows, p: Any, dy: np.ndarray, y: np.ndarray, below: np.ndarray) -> np.ndarray:
    ratio = _ratio(_positive(v), y)
    slope = (p.power + 1) * ratio**p.power - p.power * ratio ** (p.power - 1)
    share = dy / np.where(y == 0, math.inf, below).astype(dy.dtype)
    return np.where(v.values <= 0, 0, slope * share[..., None])


expectation_pool, global_expectation_pool = variant(
    "expectation_pool",
    expectation_reduce,
    expectation_gradient,
    attrs={"power": Number(1.0, 1.0, (1.0, 2.0, 3.5, 1.5))},
    extras={"total": None},
    saved=("x", "y", "total"),
    doc="""What stochastic pooling gives on average: the form for evaluation.

    y = sum over R of a^(power+1) / sum over R of a^power, a = max(x, 0); power = 1: l2^2 / l1.
    Gradient: where x > 0, ((power+1) a^power - power a^(power-1) y) / sum over R of a^power; else 0.

    Computed on a / max a. power >= 1; a large one tends to max pooling.
    Edges: y and the gradient are 0 where no element is positive. An infinite element gives inf, a NaN gives NaN.
    `total`, kept for backward, is the sum of (a / y)^power.
    Source: the paper's 2.5; Zeiler & Fergus 2013.""",
)


def entropy_reduce(v: Windows, p: Any) -> Arrays:
    a = _positive(v)
    m, r, number = _scaled(a)
    ratio = np.where(number, v.n / np.where(number, total(r, -1), 1), 0).astype(a.dtype)
    winner = np.where(m == 0, -1, _first(a, v.real)).astype(np.int32)
    return _unscaled(m, number, ratio), ratio, winner


def entropy_gradient(v: Windows, p: Any, dy: np.ndarray, ratio: np.ndarray, winner: np.ndarray) -> np.ndarray:
    peak = np.where(_at(v, winner), (2 * ratio * dy)[..., None], 0)
    spread = ratio * ratio / v.n.astype(dy.dtype) * dy
    return np.where(v.values <= 0, 0, peak - spread[..., None])


entropy_pool, global_entropy_pool = variant(
    "entropy_pool",
    entropy_reduce,
    entropy_gradient,
    extras={"ratio": None, "winner": np.int32},
    saved=("x", "ratio", "winner"),
    doc="""Entropy pooling: large where a window is peaked.

    y = max(a)^2 / mean(a) over R, a = max(x, 0): linf^2 / l1 times n, n the number of real elements in R. A peak alone
    gives its height times n, a flat window its mean.
    Gradient: where x > 0, 2 q [the first argmax] - q^2 / n, q = max(a) / mean(a); else 0.

    Edges: y and the gradient are 0 where no element is positive, and y is continuous there. An infinite element gives
    inf, a NaN gives NaN; their windows have gradient 0.
    `ratio` and `winner`, kept for backward, are q (0 where there is none) and the argmax's number in the window (-1
    where no element is positive), row-major.
    Source: the paper's 2.5, its own proposal.""",
)
