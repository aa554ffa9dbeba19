"""Pools of powers on the device: what they do with a window. The walk: pool_walk_cuda.py. Definition: pool.py, whose
conventions (|x| / m, windows without a number) hold here."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backends.kernel import SIMULATED, device
from .pool import envelope
from .pool_cuda import largest
from .pool_walk_cuda import (
    Inputs,
    Link,
    Saved,
    Window,
    count,
    element,
    number,
    over,
    peak,
    variant,
    weight,
    winner_spread,
)


@device
def is_number(m: Any) -> Any:
    return m > 0 and m < math.inf


@device
def power(v: Any, e: Any) -> Any:
    """v^e for v >= 0; small whole exponents without pow."""
    if e == 1:
        return v
    if e == 2:
        return v * v
    if e == 3:
        return v * v * v
    if e == 4:
        return (v * v) * (v * v)
    return v**e


# --- lp_pool and gaussian_lp_pool; flag: normalize ---


@device
def magnitude(v: Any) -> Any:
    return abs(v)


@device
def with_sign(a: Any, v: Any) -> Any:
    """sign(v) a."""
    return a if v > 0 else (-a if v < 0 else v * a)


@device
def no_weight(weights: Any, o: Any, tap: Any) -> Any:
    return weights.dtype.type(1)


largest_magnitude: Any = peak(magnitude)


def lp(weigh: Callable[..., Any]) -> tuple[Any, Any]:
    """The two functions of an Lp pool in which an element weighs weigh(weights, o, tap)."""

    @over
    def sum_of_powers(total: Any, v: Any, tap: Any, w: Window, c: Any) -> Any:
        best, p, weights = c
        return total + weigh(weights, w.o, tap) * power(abs(v) / best, p)

    @device
    def lp_reduce(m: Inputs, w: Window, flag: int, p: Any) -> Any:
        real = m.x.dtype.type
        best, won = largest_magnitude((abs(element(m, w, w.first)), number(w.first, w.g)), m, w, 0)
        if is_number(best) and p < math.inf:
            n = real(count(w.o, w.g, 0) if flag else 1)
            best *= power(real(sum_of_powers(np.float64(0), m, w, (best, p, m.weights))) / n, real(1) / p)
        return best, (best,), (won,)

    @device
    def lp_spread(m: Saved, e: Link, flag: int, p: Any) -> Any:
        real, v, norm = m.dy.dtype.type, m.x[e.here], m.y[e.at]
        if p == math.inf:
            return with_sign(winner_spread(m, e, flag, p), v)
        if norm == 0:
            return real(0)
        share = weigh(m.weights, e.o, e.tap) * m.dy[e.at] / real(count(e.o, e.g, 0) if flag else 1)
        return with_sign(share * power(abs(v) / norm, p - real(1)), v)

    return lp_reduce, lp_spread


# --- stochastic_pool; backward is winner_spread ---


def _times(a: Any, b: Any) -> Any:
    return a * b


# A product that is never fused with the sum it goes into, so that every backend draws the same element.
times: Any = _times if SIMULATED else importlib.import_module("numba.cuda.libdevice").dmul_rn


@device
def share_of(v: Any, best: Any, p: Any) -> Any:
    """In float64; nothing where v is not positive."""
    if not v > 0:
        return np.float64(0)
    r = np.float64(v) / np.float64(best)
    if p == 1:
        return r
    if p == 2:
        return times(r, r)
    return r ** np.float64(p)


@over
def sum_of_shares(total: Any, v: Any, tap: Any, w: Window, c: Any) -> Any:
    best, p = c
    return total + share_of(v, best, p)


@over
def drawn(state: Any, v: Any, tap: Any, w: Window, c: Any) -> Any:
    """The last element with a share, until the running sum has passed the limit."""
    running, chosen, won = state
    best, p, limit = c
    share = share_of(v, best, p)
    if share > 0 and running <= limit:
        return running + share, v, number(tap, w.g)
    return running, chosen, won


@device
def stochastic_reduce(m: Inputs, w: Window, flag: int, p: Any) -> Any:
    best, won = largest((m.x.dtype.type(0), -1), m, w, 0)
    if is_number(best):
        total = sum_of_shares(np.float64(0), m, w, (best, p))
        limit = times(total, np.float64(m.u[w.at]))
        _, best, won = drawn((np.float64(0), best, won), m, w, (best, p, limit))
    return best, (best,), (won,)


# --- expectation_pool; kept: total ---


@over
def expected(state: Any, v: Any, tap: Any, w: Window, c: Any) -> Any:
    """The sums of r^p and of r^(p+1), r = v / best."""
    total, above = state
    best, p = c
    if v > 0:
        share = power(v / best, p)
        return total + share, above + share * (v / best)
    return total, above


@device
def expectation_reduce(m: Inputs, w: Window, flag: int, p: Any) -> Any:
    real = m.x.dtype.type
    best, won = largest((real(0), -1), m, w, 0)
    if is_number(best):
        total, above = expected((np.float64(0), np.float64(0)), m, w, (best, p))
        share = real(above) / real(total)
        return best * share, (real(total) / power(share, p),), (won,)
    return best, (real(math.inf),), (won,)


@device
def expectation_spread(m: Saved, e: Link, flag: int, p: Any) -> Any:
    v, mean, one = m.x[e.here], m.y[e.at], m.dy.dtype.type(1)
    if mean == 0 or v <= 0:
        return m.dy.dtype.type(0)
    slope = (p + one) * power(v / mean, p) - p * power(v / mean, p - one)
    return m.dy[e.at] / m.floats[0][e.at] * slope


# --- entropy_pool; kept: ratio ---


@over
def sum_of_positive(total: Any, v: Any, tap: Any, w: Window, best: Any) -> Any:
    return total + v / best if v > 0 else total


@device
def entropy_reduce(m: Inputs, w: Window, flag: int, p: Any) -> Any:
    real = m.x.dtype.type
    best, won = largest((real(0), -1), m, w, 0)
    if is_number(best):
        ratio = real(count(w.o, w.g, 0)) / real(sum_of_positive(np.float64(0), m, w, best))
        return best * ratio, (ratio,), (won,)
    return best, (real(0),), (won,)


@device
def entropy_spread(m: Saved, e: Link, flag: int, p: Any) -> Any:
    real, dy, q = m.dy.dtype.type, m.dy[e.at], m.floats[0][e.at]
    if m.x[e.here] <= 0:
        return real(0)
    at_winner = (q + q) * dy if m.indices[0][e.at] == number(e.tap, e.g) else real(0)
    return at_winner - q * q / real(count(e.o, e.g, 0)) * dy


TABLE = {
    **variant("lp_pool", *lp(no_weight), flag="normalize", p="p"),
    **variant("gaussian_lp_pool", *lp(weight), p="p", weights=lambda params: envelope(params.window, params.sigma)),
    **variant("stochastic_pool", stochastic_reduce, winner_spread, p="power"),
    **variant("expectation_pool", expectation_reduce, expectation_spread, p="power"),
    **variant("entropy_pool", entropy_reduce, entropy_spread),
}
