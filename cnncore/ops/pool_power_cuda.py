"""Pools of powers on the device. Definition: pool.py, whose conventions (|x| / m, windows without a number) hold here.

As in pool_cuda.py, threads run along the positions of a plane and along planes. Forward: a thread owns outputs and
walks their real taps in row-major order. Backward: a thread owns inputs and gathers over the outputs that read them.
"""

import importlib
import math
from typing import Any

import numpy as np

from ..backends.kernel import (
    SIMULATED,
    Float1,
    Float2,
    Float4,
    Int,
    Int4,
    Real,
    copy,
    cuda,
    device,
    empty,
    flat,
    kernel,
)  # fmt: skip
from .geometry_cuda import Walk, WalkArg, readers, taps, unravel, walk
from .pool import envelope
from .pool_cuda import count, new_dx, planes_of, winner_backward

Arrays = tuple[Any, ...]
Span = tuple[int, int, int, int, int, int, int, int, int]


def _times(a: Any, b: Any) -> Any:
    return a * b


# A product that is never fused with the sum it goes into, so that every backend draws the same element.
times: Any = _times if SIMULATED else importlib.import_module("numba.cuda.libdevice").dmul_rn


@device
def span(o: int, g: Walk) -> Span:
    """Where the window of output o starts, and its real taps, along each axis: (start, first, last) three times."""
    od, oh, ow = unravel(o, g.out)
    sd, sh, sw = od * g.stride[0] - g.begin[0], oh * g.stride[1] - g.begin[1], ow * g.stride[2] - g.begin[2]
    d0, d1 = taps(sd, g.dilation[0], g.kernel[0], 0, g.size[0])
    h0, h1 = taps(sh, g.dilation[1], g.kernel[1], 0, g.size[1])
    w0, w1 = taps(sw, g.dilation[2], g.kernel[2], 0, g.size[2])
    return sd, d0, d1, sh, h0, h1, sw, w0, w1


@device
def elements(s: Span) -> int:
    """Real elements of a window."""
    return (s[2] - s[1]) * (s[5] - s[4]) * (s[8] - s[7])


@device
def outputs_of(i: int, g: Walk) -> Span:
    """Where input i lies in the padded input, and which outputs span it: (position, first, last) three times."""
    d, h, w = unravel(i, g.size)
    pd, ph, pw = d + g.begin[0], h + g.begin[1], w + g.begin[2]
    d0, d1 = readers(pd, g.stride[0], g.dilation[0], g.kernel[0], g.out[0])
    h0, h1 = readers(ph, g.stride[1], g.dilation[1], g.kernel[1], g.out[1])
    w0, w1 = readers(pw, g.stride[2], g.dilation[2], g.kernel[2], g.out[2])
    return pd, d0, d1, ph, h0, h1, pw, w0, w1


@device
def tap_of(rd: int, rh: int, rw: int, g: Walk) -> int:
    """The number in the window of what lies this far behind its start; -1 where dilation skips it."""
    if rd % g.dilation[0] or rh % g.dilation[1] or rw % g.dilation[2]:
        return -1
    return (rd // g.dilation[0] * g.kernel[1] + rh // g.dilation[1]) * g.kernel[2] + rw // g.dilation[2]


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


# --- lp_pool ---


@kernel
def lp_forward(y: Float4, x: Float4, g: WalkArg, p: Real, inverse: Real, normalize: Int) -> None:
    """inverse: 1 / p."""
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for o in range(first, g.out[0] * g.out[1] * g.out[2], step):
        od, oh, ow = unravel(o, g.out)
        s = span(o, g)
        n = y.dtype.type(elements(s) if normalize else 1)
        for plane in range(plane0, y.shape[0], planes):
            best = x.dtype.type(0)
            for d in range(s[1], s[2]):
                for h in range(s[4], s[5]):
                    for w in range(s[7], s[8]):
                        v = abs(x[plane, s[0] + d * g.dilation[0], s[3] + h * g.dilation[1], s[6] + w * g.dilation[2]])
                        if v > best or v != v:  # after a NaN no comparison is true
                            best = v
            if best > 0 and best < math.inf:
                total = x.dtype.type(0)
                for d in range(s[1], s[2]):
                    for h in range(s[4], s[5]):
                        for w in range(s[7], s[8]):
                            v = x[plane, s[0] + d * g.dilation[0], s[3] + h * g.dilation[1], s[6] + w * g.dilation[2]]
                            total += power(abs(v) / best, p)
                best *= power(total / n, inverse)
            y[plane, od, oh, ow] = best


@kernel
def lp_backward(dx: Float4, dy: Float4, x: Float4, y: Float4, g: WalkArg, less: Real, normalize: Int) -> None:
    """less: p - 1."""
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for i in range(first, g.size[0] * g.size[1] * g.size[2], step):
        d, h, w = unravel(i, g.size)
        s = outputs_of(i, g)
        for plane in range(plane0, dx.shape[0], planes):
            v = x[plane, d, h, w]
            total = dx.dtype.type(0)
            for od in range(s[1], s[2]):
                for oh in range(s[4], s[5]):
                    for ow in range(s[7], s[8]):
                        tap = tap_of(s[0] - od * g.stride[0], s[3] - oh * g.stride[1], s[6] - ow * g.stride[2], g)
                        norm = y[plane, od, oh, ow]
                        if tap >= 0 and norm != 0:
                            o = (od * g.out[1] + oh) * g.out[2] + ow
                            n = dy.dtype.type(elements(span(o, g)) if normalize else 1)
                            total += dy[plane, od, oh, ow] / n * power(abs(v) / norm, less)
            dx[plane, d, h, w] = total if v > 0 else (-total if v < 0 else v * total)


@kernel
def peak_forward(y: Float4, winner: Int4, x: Float4, g: WalkArg) -> None:
    """lp_pool at p = inf: the largest |x|, and the first tap that has it."""
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for o in range(first, g.out[0] * g.out[1] * g.out[2], step):
        od, oh, ow = unravel(o, g.out)
        s = span(o, g)
        for plane in range(plane0, y.shape[0], planes):
            best = x.dtype.type(0)
            won = -1
            for d in range(s[1], s[2]):
                for h in range(s[4], s[5]):
                    for w in range(s[7], s[8]):
                        v = abs(x[plane, s[0] + d * g.dilation[0], s[3] + h * g.dilation[1], s[6] + w * g.dilation[2]])
                        if won < 0 or v > best or (v != v and best == best):
                            best = v
                            won = (d * g.kernel[1] + h) * g.kernel[2] + w
            y[plane, od, oh, ow] = best
            winner[plane, od, oh, ow] = won


@kernel
def times_sign(dx: Float1, x: Float1) -> None:
    for i in range(cuda.grid(1), dx.shape[0], cuda.gridsize(1)):
        v = x[i]
        dx[i] = dx[i] if v > 0 else (-dx[i] if v < 0 else v * dx[i])


# --- gaussian_lp_pool: the envelope's weights come per axis, (outputs, kernel) ---


@kernel
def gaussian_lp_forward(
    y: Float4, x: Float4, e0: Float2, e1: Float2, e2: Float2, g: WalkArg, p: Real, inverse: Real
) -> None:
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for o in range(first, g.out[0] * g.out[1] * g.out[2], step):
        od, oh, ow = unravel(o, g.out)
        s = span(o, g)
        for plane in range(plane0, y.shape[0], planes):
            best = x.dtype.type(0)
            for d in range(s[1], s[2]):
                for h in range(s[4], s[5]):
                    for w in range(s[7], s[8]):
                        v = abs(x[plane, s[0] + d * g.dilation[0], s[3] + h * g.dilation[1], s[6] + w * g.dilation[2]])
                        if v > best or v != v:
                            best = v
            if best > 0 and best < math.inf:
                total = x.dtype.type(0)
                for d in range(s[1], s[2]):
                    for h in range(s[4], s[5]):
                        for w in range(s[7], s[8]):
                            v = x[plane, s[0] + d * g.dilation[0], s[3] + h * g.dilation[1], s[6] + w * g.dilation[2]]
                            total += e0[od, d] * e1[oh, h] * e2[ow, w] * power(abs(v) / best, p)
                best *= power(total, inverse)
            y[plane, od, oh, ow] = best


@kernel
def gaussian_lp_backward(
    dx: Float4, dy: Float4, x: Float4, y: Float4, e0: Float2, e1: Float2, e2: Float2, g: WalkArg, less: Real
) -> None:
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for i in range(first, g.size[0] * g.size[1] * g.size[2], step):
        d, h, w = unravel(i, g.size)
        s = outputs_of(i, g)
        for plane in range(plane0, dx.shape[0], planes):
            v = x[plane, d, h, w]
            total = dx.dtype.type(0)
            for od in range(s[1], s[2]):
                for oh in range(s[4], s[5]):
                    for ow in range(s[7], s[8]):
                        tap = tap_of(s[0] - od * g.stride[0], s[3] - oh * g.stride[1], s[6] - ow * g.stride[2], g)
                        norm = y[plane, od, oh, ow]
                        if tap >= 0 and norm != 0:
                            weight = e0[od, tap // (g.kernel[1] * g.kernel[2])] * e2[ow, tap % g.kernel[2]]
                            weight *= e1[oh, tap // g.kernel[2] % g.kernel[1]]
                            total += weight * dy[plane, od, oh, ow] * power(abs(v) / norm, less)
            dx[plane, d, h, w] = total if v > 0 else (-total if v < 0 else v * total)


# --- stochastic_pool; backward is winner_backward ---


@device
def weight_of(v: Any, best: Any, exponent: Any) -> Any:
    """In float64; nothing where v is not positive."""
    if not v > 0:
        return np.float64(0)
    r = np.float64(v) / np.float64(best)
    if exponent == 1:
        return r
    if exponent == 2:
        return times(r, r)
    return r ** np.float64(exponent)


@kernel
def stochastic_forward(y: Float4, winner: Int4, x: Float4, u: Float4, g: WalkArg, exponent: Real) -> None:
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for o in range(first, g.out[0] * g.out[1] * g.out[2], step):
        od, oh, ow = unravel(o, g.out)
        s = span(o, g)
        for plane in range(plane0, y.shape[0], planes):
            best = x.dtype.type(0)
            won = -1
            for d in range(s[1], s[2]):
                for h in range(s[4], s[5]):
                    for w in range(s[7], s[8]):
                        v = x[plane, s[0] + d * g.dilation[0], s[3] + h * g.dilation[1], s[6] + w * g.dilation[2]]
                        if v > best or (v != v and best == best):
                            best = v
                            won = (d * g.kernel[1] + h) * g.kernel[2] + w
            if best > 0 and best < math.inf:
                limit = np.float64(0)
                for d in range(s[1], s[2]):
                    for h in range(s[4], s[5]):
                        for w in range(s[7], s[8]):
                            v = x[plane, s[0] + d * g.dilation[0], s[3] + h * g.dilation[1], s[6] + w * g.dilation[2]]
                            limit += weight_of(v, best, exponent)
                limit = times(limit, np.float64(u[plane, od, oh, ow]))
                running = np.float64(0)
                drawn = best
                for d in range(s[1], s[2]):
                    for h in range(s[4], s[5]):
                        for w in range(s[7], s[8]):
                            v = x[plane, s[0] + d * g.dilation[0], s[3] + h * g.dilation[1], s[6] + w * g.dilation[2]]
                            if v > 0 and running <= limit:
                                weight = weight_of(v, best, exponent)
                                if weight > 0:
                                    running += weight
                                    drawn = v
                                    won = (d * g.kernel[1] + h) * g.kernel[2] + w
                best = drawn
            y[plane, od, oh, ow] = best
            winner[plane, od, oh, ow] = won


# --- expectation_pool ---


@kernel
def expectation_forward(y: Float4, total: Float4, x: Float4, g: WalkArg, exponent: Real) -> None:
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for o in range(first, g.out[0] * g.out[1] * g.out[2], step):
        od, oh, ow = unravel(o, g.out)
        s = span(o, g)
        for plane in range(plane0, y.shape[0], planes):
            best = x.dtype.type(0)
            for d in range(s[1], s[2]):
                for h in range(s[4], s[5]):
                    for w in range(s[7], s[8]):
                        v = x[plane, s[0] + d * g.dilation[0], s[3] + h * g.dilation[1], s[6] + w * g.dilation[2]]
                        if v > best or v != v:
                            best = v
            weights = x.dtype.type(math.inf)
            if best > 0 and best < math.inf:
                weights = x.dtype.type(0)
                above = x.dtype.type(0)
                for d in range(s[1], s[2]):
                    for h in range(s[4], s[5]):
                        for w in range(s[7], s[8]):
                            v = x[plane, s[0] + d * g.dilation[0], s[3] + h * g.dilation[1], s[6] + w * g.dilation[2]]
                            if v > 0:
                                weight = power(v / best, exponent)
                                weights += weight
                                above += weight * (v / best)
                share = above / weights
                best *= share
                weights /= power(share, exponent)
            y[plane, od, oh, ow] = best
            total[plane, od, oh, ow] = weights


@kernel
def expectation_backward(
    dx: Float4, dy: Float4, x: Float4, y: Float4, totals: Float4, g: WalkArg, exponent: Real, more: Real, less: Real
) -> None:
    """more, less: exponent + 1, exponent - 1."""
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for i in range(first, g.size[0] * g.size[1] * g.size[2], step):
        d, h, w = unravel(i, g.size)
        s = outputs_of(i, g)
        for plane in range(plane0, dx.shape[0], planes):
            v = x[plane, d, h, w]
            total = dx.dtype.type(0)
            for od in range(s[1], s[2]):
                for oh in range(s[4], s[5]):
                    for ow in range(s[7], s[8]):
                        tap = tap_of(s[0] - od * g.stride[0], s[3] - oh * g.stride[1], s[6] - ow * g.stride[2], g)
                        mean = y[plane, od, oh, ow]
                        if tap >= 0 and mean != 0 and not v <= 0:
                            slope = more * power(v / mean, exponent) - exponent * power(v / mean, less)
                            total += dy[plane, od, oh, ow] / totals[plane, od, oh, ow] * slope
            dx[plane, d, h, w] = total


# --- entropy_pool ---


@kernel
def entropy_forward(y: Float4, ratio: Float4, winner: Int4, x: Float4, g: WalkArg) -> None:
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for o in range(first, g.out[0] * g.out[1] * g.out[2], step):
        od, oh, ow = unravel(o, g.out)
        s = span(o, g)
        n = y.dtype.type(elements(s))
        for plane in range(plane0, y.shape[0], planes):
            best = x.dtype.type(0)
            won = -1
            for d in range(s[1], s[2]):
                for h in range(s[4], s[5]):
                    for w in range(s[7], s[8]):
                        v = x[plane, s[0] + d * g.dilation[0], s[3] + h * g.dilation[1], s[6] + w * g.dilation[2]]
                        if v > best or (v != v and best == best):
                            best = v
                            won = (d * g.kernel[1] + h) * g.kernel[2] + w
            quotient = x.dtype.type(0)
            if best > 0 and best < math.inf:
                total = x.dtype.type(0)
                for d in range(s[1], s[2]):
                    for h in range(s[4], s[5]):
                        for w in range(s[7], s[8]):
                            v = x[plane, s[0] + d * g.dilation[0], s[3] + h * g.dilation[1], s[6] + w * g.dilation[2]]
                            if v > 0:
                                total += v / best
                quotient = n / total
                best *= quotient
            y[plane, od, oh, ow] = best
            ratio[plane, od, oh, ow] = quotient
            winner[plane, od, oh, ow] = won


@kernel
def entropy_backward(dx: Float4, dy: Float4, x: Float4, ratio: Float4, winner: Int4, g: WalkArg) -> None:
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for i in range(first, g.size[0] * g.size[1] * g.size[2], step):
        d, h, w = unravel(i, g.size)
        s = outputs_of(i, g)
        for plane in range(plane0, dx.shape[0], planes):
            v = x[plane, d, h, w]
            total = dx.dtype.type(0)
            for od in range(s[1], s[2]):
                for oh in range(s[4], s[5]):
                    for ow in range(s[7], s[8]):
                        tap = tap_of(s[0] - od * g.stride[0], s[3] - oh * g.stride[1], s[6] - ow * g.stride[2], g)
                        if tap >= 0 and not v <= 0:
                            q = ratio[plane, od, oh, ow]
                            n = dy.dtype.type(elements(span((od * g.out[1] + oh) * g.out[2] + ow, g)))
                            if winner[plane, od, oh, ow] == tap:
                                total += (q + q) * dy[plane, od, oh, ow]
                            total -= q * q / n * dy[plane, od, oh, ow]
            dx[plane, d, h, w] = total


# --- on the host ---


def _lp_forward(p: Any, out: Arrays, x: Any) -> None:
    g, x = walk(p.window), planes_of(x)
    y = planes_of(out[0])
    if math.isinf(p.p):
        peak_forward.plane(count(g.out), y.shape[0], y, planes_of(out[1]), x, g)
    else:
        lp_forward.plane(count(g.out), y.shape[0], y, x, g, p.p, 1 / p.p, int(p.normalize))


def _lp_backward(p: Any, needs: tuple[bool, ...], dy: Any, x: Any, y: Any, winner: Any) -> Arrays:
    if not needs[0]:
        return (None,)
    g, dx = walk(p.window), new_dx(p, dy)
    into = planes_of(dx)
    if math.isinf(p.p):
        winner_backward.plane(count(g.size), into.shape[0], into, planes_of(dy), planes_of(winner), g)
        times_sign.over(flat(dx).shape[0], flat(dx), flat(x))
    else:
        arrays = (planes_of(a) for a in (dy, x, y))
        lp_backward.plane(count(g.size), into.shape[0], into, *arrays, g, p.p - 1, int(p.normalize))
    return (dx,)


def _envelope(p: Any, dtype: Any) -> list[Any]:
    """The weights on the device, (outputs, kernel) for each of three axes."""
    axes = [np.ones((1, 1))] * (3 - len(p.window.out)) + envelope(p.window, p.sigma)
    weights = []
    for axis in axes:
        weights.append(empty(axis.shape, dtype))
        copy(weights[-1], np.ascontiguousarray(axis, dtype))
    return weights


def _gaussian_forward(p: Any, out: Arrays, x: Any) -> None:
    g, y, weights = walk(p.window), planes_of(out[0]), _envelope(p, x.dtype)
    gaussian_lp_forward.plane(count(g.out), y.shape[0], y, planes_of(x), *weights, g, p.p, 1 / p.p)


def _gaussian_backward(p: Any, needs: tuple[bool, ...], dy: Any, x: Any, y: Any) -> Arrays:
    if not needs[0]:
        return (None,)
    g, dx, weights = walk(p.window), new_dx(p, dy), _envelope(p, dy.dtype)
    into, *arrays = (planes_of(a) for a in (dx, dy, x, y))
    gaussian_lp_backward.plane(count(g.size), into.shape[0], into, *arrays, *weights, g, p.p - 1)
    return (dx,)


def _stochastic_forward(p: Any, out: Arrays, x: Any, u: Any) -> None:
    g = walk(p.window)
    y, winner, x, u = (planes_of(a) for a in (*out, x, u))
    stochastic_forward.plane(count(g.out), y.shape[0], y, winner, x, u, g, p.power)


def _stochastic_backward(p: Any, needs: tuple[bool, ...], dy: Any, winner: Any) -> Arrays:
    if not needs[0]:
        return None, None
    g, dx = walk(p.window), new_dx(p, dy)
    into, dy, winner = (planes_of(a) for a in (dx, dy, winner))
    winner_backward.plane(count(g.size), into.shape[0], into, dy, winner, g)
    return dx, None


def _expectation_forward(p: Any, out: Arrays, x: Any) -> None:
    g = walk(p.window)
    y, total, x = (planes_of(a) for a in (*out, x))
    expectation_forward.plane(count(g.out), y.shape[0], y, total, x, g, p.power)


def _expectation_backward(p: Any, needs: tuple[bool, ...], dy: Any, x: Any, y: Any, total: Any) -> Arrays:
    if not needs[0]:
        return (None,)
    g, dx = walk(p.window), new_dx(p, dy)
    into, *arrays = (planes_of(a) for a in (dx, dy, x, y, total))
    exponents = p.power, p.power + 1, p.power - 1
    expectation_backward.plane(count(g.size), into.shape[0], into, *arrays, g, *exponents)
    return (dx,)


def _entropy_forward(p: Any, out: Arrays, x: Any) -> None:
    g = walk(p.window)
    y, ratio, winner, x = (planes_of(a) for a in (*out, x))
    entropy_forward.plane(count(g.out), y.shape[0], y, ratio, winner, x, g)


def _entropy_backward(p: Any, needs: tuple[bool, ...], dy: Any, x: Any, ratio: Any, winner: Any) -> Arrays:
    if not needs[0]:
        return (None,)
    g, dx = walk(p.window), new_dx(p, dy)
    into, *arrays = (planes_of(a) for a in (dx, dy, x, ratio, winner))
    entropy_backward.plane(count(g.size), into.shape[0], into, *arrays, g)
    return (dx,)


TABLE = {
    "lp_pool": (_lp_forward, _lp_backward),
    "gaussian_lp_pool": (_gaussian_forward, _gaussian_backward),
    "stochastic_pool": (_stochastic_forward, _stochastic_backward),
    "expectation_pool": (_expectation_forward, _expectation_backward),
    "entropy_pool": (_entropy_forward, _entropy_backward),
}
