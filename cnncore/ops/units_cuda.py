"""maxout and lp_unit on the device. Definition: units.py.

maxout goes over the pieces at every position, then over windows by pool_cuda.py. lp_unit's threads own a unit each
(forward, and the gradient to p), an element of x each (its gradient), or a parameter each (sums, in one order).

Arrays are (N K, pieces, pixels) and (N K, pixels): a row per group of maps. Threads run along pixels and over rows.
"""

import math
from typing import Any

from ..backends.kernel import Float1, Float2, Float3, Float4, Float5, Int, Int2, cuda, empty, kernel, view
from .geometry_cuda import WalkArg, readers, taps, three, unravel, walk
from .pool_cuda import TABLE as POOL

Arrays = tuple[Any, ...]

_pool_forward: Any
_pool_backward: Any
_pool_forward, _pool_backward = POOL["max_pool"]


@kernel
def largest_piece(y: Float2, piece: Int2, x: Float3) -> None:
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
def to_piece(dx: Float3, dy: Float2, piece: Int2) -> None:
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    for row in range(row0, dy.shape[0], rows):
        for i in range(first, dy.shape[1], step):
            for j in range(dx.shape[1]):
                dx[row, j, i] = dy[row, i] if piece[row, i] == j else dy.dtype.type(0)


@kernel
def lp_forward(y: Float4, x: Float5, rho: Float1, center: Float2, g: WalkArg) -> None:
    """A unit per thread. x is (N K, pieces, D, H, W), y (N K, D, H, W), center (K, pieces)."""
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for row in range(row0, y.shape[0], rows):
        k = row % rho.shape[0]
        norm = x.dtype.type(one + max(rho[k], zero) + math.log1p(math.exp(-abs(rho[k]))))
        for o in range(first, g.out[0] * g.out[1] * g.out[2], step):
            od, oh, ow = unravel(o, g.out)
            sd, sh, sw = od * g.stride[0] - g.begin[0], oh * g.stride[1] - g.begin[1], ow * g.stride[2] - g.begin[2]
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
            total = zero
            if most > zero and most != x.dtype.type(math.inf):
                for j in range(x.shape[1]):
                    for d in range(d0, d1):
                        for h in range(h0, h1):
                            for w in range(w0, w1):
                                v = abs(x[row, j, sd + d, sh + h, sw + w] - center[k, j])
                                total += (v / most) ** norm
                mean = total / x.dtype.type(x.shape[1] * (d1 - d0) * (h1 - h0) * (w1 - w0))
                y[row, od, oh, ow] = most * mean ** (one / norm)
            else:
                y[row, od, oh, ow] = most


@kernel
def lp_to_x(
    dx: Float5, dy: Float4, x: Float5, rho: Float1, center: Float2, y: Float4, g: WalkArg
) -> None:  # fmt: skip
    """An element of x per thread: of a group's maps, one after the other."""
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    zero = x.dtype.type(0)
    for row in range(row0, dy.shape[0], rows):
        k = row % rho.shape[0]
        power = x.dtype.type(max(rho[k], zero) + math.log1p(math.exp(-abs(rho[k]))))
        for i in range(first, g.size[0] * g.size[1] * g.size[2], step):
            d, h, w = unravel(i, g.size)
            pd, ph, pw = d + g.begin[0], h + g.begin[1], w + g.begin[2]
            d0, d1 = readers(pd, g.stride[0], 1, g.kernel[0], g.out[0])
            h0, h1 = readers(ph, g.stride[1], 1, g.kernel[1], g.out[1])
            w0, w1 = readers(pw, g.stride[2], 1, g.kernel[2], g.out[2])
            for j in range(x.shape[1]):
                z = x[row, j, d, h, w] - center[k, j]
                total = zero
                for od in range(d0, d1):
                    a, b = taps(od * g.stride[0] - g.begin[0], 1, g.kernel[0], 0, g.size[0])
                    for oh in range(h0, h1):
                        c, e = taps(oh * g.stride[1] - g.begin[1], 1, g.kernel[1], 0, g.size[1])
                        for ow in range(w0, w1):
                            u, v = taps(ow * g.stride[2] - g.begin[2], 1, g.kernel[2], 0, g.size[2])
                            if z != zero:
                                slope = (abs(z) / y[row, od, oh, ow]) ** power
                                n = x.dtype.type(x.shape[1] * (b - a) * (e - c) * (v - u))
                                total += dy[row, od, oh, ow] / n * (slope if z > zero or z != z else -slope)
                dx[row, j, d, h, w] = total


@kernel
def lp_to_norm(
    to_norm: Float1, dy: Float4, x: Float5, rho: Float1, center: Float2, y: Float4, g: WalkArg
) -> None:  # fmt: skip
    """A group of one image per thread: the sum of dy y (sum of r^p log r) / n."""
    zero = x.dtype.type(0)
    for row in range(cuda.grid(1), dy.shape[0], cuda.gridsize(1)):
        k = row % rho.shape[0]
        power = x.dtype.type(max(rho[k], zero) + math.log1p(math.exp(-abs(rho[k]))))
        whole = zero
        for o in range(g.out[0] * g.out[1] * g.out[2]):
            od, oh, ow = unravel(o, g.out)
            sd, sh, sw = od * g.stride[0] - g.begin[0], oh * g.stride[1] - g.begin[1], ow * g.stride[2] - g.begin[2]
            d0, d1 = taps(sd, 1, g.kernel[0], 0, g.size[0])
            h0, h1 = taps(sh, 1, g.kernel[1], 0, g.size[1])
            w0, w1 = taps(sw, 1, g.kernel[2], 0, g.size[2])
            total = zero
            for j in range(x.shape[1]):
                for d in range(d0, d1):
                    for h in range(h0, h1):
                        for w in range(w0, w1):
                            v = abs(x[row, j, sd + d, sh + h, sw + w] - center[k, j])
                            if v != zero:
                                r = v / y[row, od, oh, ow]
                                total += r * r**power * x.dtype.type(math.log(r)) if r != zero else zero
            n = x.dtype.type(x.shape[1] * (d1 - d0) * (h1 - h0) * (w1 - w0))
            whole += dy[row, od, oh, ow] * y[row, od, oh, ow] * total / n
        to_norm[row] = whole


@kernel
def lp_to_rho(drho: Float1, to_norm: Float1, rho: Float1) -> None:
    zero, one = rho.dtype.type(0), rho.dtype.type(1)
    for k in range(cuda.grid(1), rho.shape[0], cuda.gridsize(1)):
        total = zero
        for row in range(k, to_norm.shape[0], rho.shape[0]):
            total += to_norm[row]
        norm = one + max(rho[k], zero) + math.log1p(math.exp(-abs(rho[k])))
        drho[k] = total / norm / (one + math.exp(-rho[k]))


@kernel
def lp_to_center(dcenter: Float1, dx: Float3) -> None:
    """Minus the sum over images and pixels of dx (N, C, pixels)."""
    for c in range(cuda.grid(1), dx.shape[1], cuda.gridsize(1)):
        total = dx.dtype.type(0)
        for n in range(dx.shape[0]):
            for i in range(dx.shape[2]):
                total -= dx[n, c, i]
        dcenter[c] = total


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


def _lp_forward(p: Any, out: Arrays, x: Any, rho: Any, center: Any) -> None:
    g, y = walk(p.window), _maps(out[0])
    lp_forward.plane(math.prod(g.out), y.shape[0], y, _units(x, p.pieces), rho, _center(p, x, center), g)


def _lp_backward(p: Any, needs: tuple[bool, ...], dy: Any, x: Any, rho: Any, center: Any, y: Any) -> Arrays:
    g, units, rows = walk(p.window), _units(x, p.pieces), _maps(dy)
    common = (rows, units, rho, _center(p, x, center), _maps(y), g)
    dx = drho = dcenter = None
    if needs[0] or needs[2]:
        dx = empty(x.shape, x.dtype)
        lp_to_x.plane(math.prod(g.size), rows.shape[0], _units(dx, p.pieces), *common)
    if needs[1]:
        drho, to_norm = empty(rho.shape, x.dtype), empty((rows.shape[0],), x.dtype)
        lp_to_norm.over(rows.shape[0], to_norm, *common)
        lp_to_rho.over(rho.shape[0], drho, to_norm, rho)
    if needs[2]:
        dcenter = empty((x.shape[1],), x.dtype)
        lp_to_center.over(x.shape[1], dcenter, view(dx, *x.shape[:2], math.prod(x.shape[2:])))
    return dx if needs[0] else None, drho, dcenter


TABLE = {"maxout": (_maxout_forward, _maxout_backward), "lp_unit": (_lp_forward, _lp_backward)}
