"""maxout and lp_unit on the device. Definition: units.py.

maxout goes over the pieces at every position, then over windows by pool_cuda.py. lp_unit's threads own a unit each, or
(in the gradient to x) an element of every map of a group; the parameters' gradients are sums over maps, `sum_maps`.

Arrays are (N K, pieces, pixels) and (N K, pixels): a row per group of maps. Threads run along pixels and over rows.
"""

import math
from typing import Any

import numpy as np

from ..backends.kernel import (
    THREADS,
    Byte2,
    Float1,
    Float2,
    Float3,
    Float4,
    Float5,
    Int,
    Real,
    cuda,
    device,
    empty,
    kernel,
    view,
)  # fmt: skip
from .conv_cuda import sum_maps
from .geometry_cuda import Walk, WalkArg, readers, taps, three, unravel, walk
from .pool_cuda import TABLE as POOL

Arrays = tuple[Any, ...]

_pool_forward: Any
_pool_backward: Any
_pool_forward, _pool_backward = POOL["max_pool"]


@kernel
def largest_piece(y: Float2, piece: Byte2, x: Float3) -> None:
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    for row in range(row0, y.shape[0], rows):
        for i in range(first, y.shape[1], step):
            best = x[row, 0, i]
            won = 0
            for j in range(1, x.shape[1]):
                v = x[row, j, i]
                # v != v: a NaN wins, the first one stays (no comparison with it is true)
                if v > best or (v != v and best == best):
                    best = v
                    won = j
            y[row, i] = best
            piece[row, i] = won


@kernel
def to_piece(dx: Float3, dy: Float2, piece: Byte2) -> None:
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    for row in range(row0, dy.shape[0], rows):
        for i in range(first, dy.shape[1], step):
            for j in range(dx.shape[1]):
                dx[row, j, i] = dy[row, i] if piece[row, i] == j else dy.dtype.type(0)


@device
def unit_parts(
    x: Any, row: int, center: Any, k: int, above: Any, least: Any, g: Walk, o: int
) -> tuple[Any, Any, Any, int]:
    """Of one unit: its largest |z|, NaN where one is; the sums of t^p and of t^p log t; how many elements it has."""
    zero = x.dtype.type(0)
    at = unravel(o, g.out)
    sd, sh, sw = at[0] * g.stride[0] - g.begin[0], at[1] * g.stride[1] - g.begin[1], at[2] * g.stride[2] - g.begin[2]
    d0, d1 = taps(sd, 1, g.kernel[0], 0, g.size[0])
    h0, h1 = taps(sh, 1, g.kernel[1], 0, g.size[1])
    w0, w1 = taps(sw, 1, g.kernel[2], 0, g.size[2])
    most = zero
    for j in range(x.shape[1]):
        for d in range(d0, d1):
            for h in range(h0, h1):
                for w in range(w0, w1):
                    v = abs(x[row, j, sd + d, sh + h, sw + w] - center[k, j])
                    if v > most or v != v:  # a NaN stays: no comparison with it is true
                        most = v
    total = np.float64(0)
    logs = np.float64(0)
    for j in range(x.shape[1]):
        for d in range(d0, d1):
            for h in range(h0, h1):
                for w in range(w0, w1):
                    v = abs(x[row, j, sd + d, sh + h, sw + w] - center[k, j])
                    if v != zero:
                        t = max(v / most, least)
                        power = t * t**above
                        total += power
                        logs += power * x.dtype.type(math.log(t))
    return most, total, logs, x.shape[1] * (d1 - d0) * (h1 - h0) * (w1 - w0)


@kernel
def unit_norms(y: Float4, x: Float5, rho: Float1, center: Float2, g: WalkArg, least: Real) -> None:
    """A unit per thread. x is (N K, pieces, D, H, W), y (N K, D, H, W), center (K, pieces)."""
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    zero, one, infinity = x.dtype.type(0), x.dtype.type(1), x.dtype.type(math.inf)
    for row in range(row0, y.shape[0], rows):
        k = row % rho.shape[0]
        above = x.dtype.type(max(rho[k], zero) + math.log1p(math.exp(-abs(rho[k]))))
        for o in range(first, g.out[0] * g.out[1] * g.out[2], step):
            most, total, _, count = unit_parts(x, row, center, k, above, least, g, o)
            value = most
            if most > zero and most < infinity:
                value = most * (x.dtype.type(total) / x.dtype.type(count)) ** (one / (one + above))
            od, oh, ow = unravel(o, g.out)
            y[row, od, oh, ow] = value


@kernel
def unit_shares(share: Float4, most: Float4, to_rho: Float4, dy: Float4, x: Float5, rho: Float1, center: Float2,
                g: WalkArg, least: Real) -> None:  # fmt: skip
    """A unit per thread: share (dy / n) s^(1/p - 1), its largest |z|, and what it gives to rho."""
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    zero, one, infinity = x.dtype.type(0), x.dtype.type(1), x.dtype.type(math.inf)
    for row in range(row0, dy.shape[0], rows):
        k = row % rho.shape[0]
        above = x.dtype.type(max(rho[k], zero) + math.log1p(math.exp(-abs(rho[k]))))
        norm = one + above
        for o in range(first, g.out[0] * g.out[1] * g.out[2], step):
            largest, total, logs, count = unit_parts(x, row, center, k, above, least, g, o)
            n = x.dtype.type(count)
            mean = x.dtype.type(total) / n if largest != zero else one
            root = mean ** (one / norm) if largest < infinity else x.dtype.type(math.nan)
            od, oh, ow = unravel(o, g.out)
            to = dy[row, od, oh, ow]
            most[row, od, oh, ow] = largest
            share[row, od, oh, ow] = to / n * (root / mean)
            slope = root
            if largest < infinity:
                slope = x.dtype.type(logs) / (n * mean) - x.dtype.type(math.log(mean)) / norm
            to_rho[row, od, oh, ow] = to * (largest * root / norm) * slope / x.dtype.type(one + math.exp(-rho[k]))


@kernel
def units_to_x(dx: Float5, share: Float4, most: Float4, x: Float5, rho: Float1, center: Float2,
               g: WalkArg, least: Real) -> None:  # fmt: skip
    """An element of x per thread: of a group's maps, one after the other."""
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    zero = x.dtype.type(0)
    for row in range(row0, share.shape[0], rows):
        k = row % rho.shape[0]
        above = x.dtype.type(max(rho[k], zero) + math.log1p(math.exp(-abs(rho[k]))))
        for i in range(first, g.size[0] * g.size[1] * g.size[2], step):
            d, h, w = unravel(i, g.size)
            d0, d1 = readers(d + g.begin[0], g.stride[0], 1, g.kernel[0], g.out[0])
            h0, h1 = readers(h + g.begin[1], g.stride[1], 1, g.kernel[1], g.out[1])
            w0, w1 = readers(w + g.begin[2], g.stride[2], 1, g.kernel[2], g.out[2])
            for j in range(x.shape[1]):
                z = x[row, j, d, h, w] - center[k, j]
                total = np.float64(0)
                for od in range(d0, d1):
                    for oh in range(h0, h1):
                        for ow in range(w0, w1):
                            slope = zero
                            if z != zero:
                                slope = max(abs(z) / most[row, od, oh, ow], least) ** above
                            total += share[row, od, oh, ow] * (slope if z > zero else -slope)
                dx[row, j, d, h, w] = total


@kernel
def fill(a: Float1, value: Int) -> None:
    for i in range(cuda.grid(1), a.shape[0], cuda.gridsize(1)):
        a[i] = value


# --- on the host ---


def _groups(a: Any, pieces: int) -> Any:
    return view(a, a.shape[0] * a.shape[1] // pieces, pieces, math.prod(a.shape[2:]))


def _rows(a: Any) -> Any:
    return view(a, a.shape[0] * a.shape[1], math.prod(a.shape[2:]))


def _maxout_forward(p: Any, out: Arrays, x: Any) -> None:
    y, piece, winner = out
    largest = empty(piece.shape, x.dtype) if p.pooled else y
    rows = _rows(largest)
    largest_piece.plane(rows.shape[1], rows.shape[0], rows, _rows(piece), _groups(x, p.pieces))
    if p.pooled:
        _pool_forward(p, (y, winner), largest)


def _maxout_backward(p: Any, needs: tuple[bool, ...], dy: Any, piece: Any, winner: Any) -> Arrays:
    if not needs[0]:
        return (None,)
    (dm,) = _pool_backward(p, needs, dy, winner) if p.pooled else (dy,)
    dx = empty((dm.shape[0], dm.shape[1] * p.pieces, *dm.shape[2:]), dy.dtype)
    rows = _rows(dm)
    to_piece.plane(rows.shape[1], rows.shape[0], _groups(dx, p.pieces), rows, _rows(piece))
    return (dx,)


def _units(a: Any, pieces: int) -> Any:
    return view(a, a.shape[0] * a.shape[1] // pieces, pieces, *three(a.shape[2:], 1))


def _maps(a: Any) -> Any:
    return view(a, a.shape[0] * a.shape[1], *three(a.shape[2:], 1))


def _center(p: Any, x: Any, center: Any) -> Any:
    """(K, pieces); zeros where there is none."""
    if center is None:
        center = empty((x.shape[1],), x.dtype)
        fill.over(x.shape[1], center, 0)
    return view(center, x.shape[1] // p.pieces, p.pieces)


def _least(x: Any) -> float:
    return float(np.finfo(x.dtype).tiny)


def _lp_forward(p: Any, out: Arrays, x: Any, rho: Any, center: Any) -> None:
    g, y = walk(p.window), _maps(out[0])
    unit_norms.plane(math.prod(g.out), y.shape[0], y, _units(x, p.pieces), rho, _center(p, x, center), g, _least(x))


def _sums(maps: Any, scale: float) -> Any:
    """Over images and pixels of (N, maps, pixels)."""
    sums = empty((maps.shape[1],), maps.dtype)
    sum_maps.blocks(maps.shape[1], THREADS, sums, maps, scale)
    return sums


def _lp_backward(p: Any, needs: tuple[bool, ...], dy: Any, x: Any, rho: Any, center: Any) -> Arrays:
    if not any(needs):
        return None, None, None
    g, rows, common = walk(p.window), _maps(dy), (_units(x, p.pieces), rho, _center(p, x, center), walk(p.window))
    share, most, to_rho = (empty(rows.shape, x.dtype) for _ in range(3))
    unit_shares.plane(math.prod(g.out), rows.shape[0], share, most, to_rho, rows, *common, _least(x))
    dx = empty(x.shape, x.dtype) if needs[0] or needs[2] else None
    if dx is not None:
        units = _units(dx, p.pieces)
        units_to_x.plane(math.prod(g.size), rows.shape[0], units, share, most, *common, _least(x))
    return (
        dx if needs[0] else None,
        _sums(view(to_rho, *dy.shape[:2], math.prod(g.out)), 1.0) if needs[1] else None,
        _sums(view(dx, *x.shape[:2], math.prod(g.size)), -1.0) if needs[2] else None,
    )


TABLE = {"maxout": (_maxout_forward, _maxout_backward), "lp_unit": (_lp_forward, _lp_backward)}
