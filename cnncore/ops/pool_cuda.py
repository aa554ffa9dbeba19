"""Pooling on the device. Definition: pool.py.

Arrays are (N C, D, H, W): a plane per image and map. Threads run along the positions of a plane (so that a warp reads
and writes neighbours) and along planes; what a position's windows are is worked out once for all planes of a thread.

Forward: a thread owns outputs and walks their real taps in row-major order, so ties go to the first.
Backward: a thread owns inputs and gathers over the outputs that read them.
"""

from typing import Any

from ..backends.kernel import Float4, Int, Int4, cuda, empty, kernel, view
from .geometry_cuda import WalkArg, readers, taps, three, unravel, walk

Arrays = tuple[Any, ...]

# --- max_pool ---


@kernel
def max_pool_forward(y: Float4, winner: Int4, x: Float4, g: WalkArg) -> None:
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for o in range(first, g.out[0] * g.out[1] * g.out[2], step):
        od, oh, ow = unravel(o, g.out)
        sd, sh, sw = od * g.stride[0] - g.begin[0], oh * g.stride[1] - g.begin[1], ow * g.stride[2] - g.begin[2]
        d0, d1 = taps(sd, g.dilation[0], g.kernel[0], 0, g.size[0])
        h0, h1 = taps(sh, g.dilation[1], g.kernel[1], 0, g.size[1])
        w0, w1 = taps(sw, g.dilation[2], g.kernel[2], 0, g.size[2])
        for plane in range(plane0, y.shape[0], planes):
            best = x.dtype.type(0)
            won = -1
            for d in range(d0, d1):
                for h in range(h0, h1):
                    for w in range(w0, w1):
                        v = x[plane, sd + d * g.dilation[0], sh + h * g.dilation[1], sw + w * g.dilation[2]]
                        # v != v: a NaN wins, the first one stays (no comparison with it is true)
                        if won < 0 or v > best or (v != v and best == best):
                            best = v
                            won = (d * g.kernel[1] + h) * g.kernel[2] + w
            y[plane, od, oh, ow] = best
            winner[plane, od, oh, ow] = won


@kernel
def winner_backward(dx: Float4, dy: Float4, winner: Int4, g: WalkArg) -> None:
    """For every pooling that passes dy to one element of the window, numbered in `winner`."""
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for i in range(first, g.size[0] * g.size[1] * g.size[2], step):
        d, h, w = unravel(i, g.size)
        pd, ph, pw = d + g.begin[0], h + g.begin[1], w + g.begin[2]
        d0, d1 = readers(pd, g.stride[0], g.dilation[0], g.kernel[0], g.out[0])
        h0, h1 = readers(ph, g.stride[1], g.dilation[1], g.kernel[1], g.out[1])
        w0, w1 = readers(pw, g.stride[2], g.dilation[2], g.kernel[2], g.out[2])
        for plane in range(plane0, dx.shape[0], planes):
            total = dx.dtype.type(0)
            for od in range(d0, d1):
                for oh in range(h0, h1):
                    for ow in range(w0, w1):
                        rd, rh, rw = pd - od * g.stride[0], ph - oh * g.stride[1], pw - ow * g.stride[2]
                        if rd % g.dilation[0] == 0 and rh % g.dilation[1] == 0 and rw % g.dilation[2] == 0:
                            tap = (rd // g.dilation[0] * g.kernel[1] + rh // g.dilation[1]) * g.kernel[2]
                            if winner[plane, od, oh, ow] == tap + rw // g.dilation[2]:
                                total += dy[plane, od, oh, ow]
            dx[plane, d, h, w] = total


# --- avg_pool ---


@kernel
def avg_pool_forward(y: Float4, x: Float4, g: WalkArg, pads: Int) -> None:
    """pads: 1 where padding counts in the divisor, else 0."""
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for o in range(first, g.out[0] * g.out[1] * g.out[2], step):
        od, oh, ow = unravel(o, g.out)
        sd, sh, sw = od * g.stride[0] - g.begin[0], oh * g.stride[1] - g.begin[1], ow * g.stride[2] - g.begin[2]
        d0, d1 = taps(sd, g.dilation[0], g.kernel[0], 0, g.size[0])
        h0, h1 = taps(sh, g.dilation[1], g.kernel[1], 0, g.size[1])
        w0, w1 = taps(sw, g.dilation[2], g.kernel[2], 0, g.size[2])
        dl, dh = taps(sd, g.dilation[0], g.kernel[0], -pads * g.begin[0], g.size[0] + pads * g.end[0])
        hl, hh = taps(sh, g.dilation[1], g.kernel[1], -pads * g.begin[1], g.size[1] + pads * g.end[1])
        wl, wh = taps(sw, g.dilation[2], g.kernel[2], -pads * g.begin[2], g.size[2] + pads * g.end[2])
        n = y.dtype.type((dh - dl) * (hh - hl) * (wh - wl))
        for plane in range(plane0, y.shape[0], planes):
            total = y.dtype.type(0)
            for d in range(d0, d1):
                for h in range(h0, h1):
                    for w in range(w0, w1):
                        total += x[plane, sd + d * g.dilation[0], sh + h * g.dilation[1], sw + w * g.dilation[2]]
            y[plane, od, oh, ow] = total / n


@kernel
def avg_pool_backward(dx: Float4, dy: Float4, g: WalkArg, pads: Int) -> None:
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    for i in range(first, g.size[0] * g.size[1] * g.size[2], step):
        d, h, w = unravel(i, g.size)
        pd, ph, pw = d + g.begin[0], h + g.begin[1], w + g.begin[2]
        d0, d1 = readers(pd, g.stride[0], g.dilation[0], g.kernel[0], g.out[0])
        h0, h1 = readers(ph, g.stride[1], g.dilation[1], g.kernel[1], g.out[1])
        w0, w1 = readers(pw, g.stride[2], g.dilation[2], g.kernel[2], g.out[2])
        for plane in range(plane0, dx.shape[0], planes):
            total = dx.dtype.type(0)
            for od in range(d0, d1):
                sd = od * g.stride[0] - g.begin[0]
                dl, dh = taps(sd, g.dilation[0], g.kernel[0], -pads * g.begin[0], g.size[0] + pads * g.end[0])
                for oh in range(h0, h1):
                    sh = oh * g.stride[1] - g.begin[1]
                    hl, hh = taps(sh, g.dilation[1], g.kernel[1], -pads * g.begin[1], g.size[1] + pads * g.end[1])
                    for ow in range(w0, w1):
                        sw = ow * g.stride[2] - g.begin[2]
                        wl, wh = taps(sw, g.dilation[2], g.kernel[2], -pads * g.begin[2], g.size[2] + pads * g.end[2])
                        n = (dh - dl) * (hh - hl) * (wh - wl)
                        rd, rh, rw = d - sd, h - sh, w - sw
                        if rd % g.dilation[0] == 0 and rh % g.dilation[1] == 0 and rw % g.dilation[2] == 0:
                            total += dy[plane, od, oh, ow] / dy.dtype.type(n)
            dx[plane, d, h, w] = total


# --- on the host ---


def planes_of(a: Any) -> Any:
    return view(a, a.shape[0] * a.shape[1], *three(a.shape[2:], 1))


def count(size: tuple[int, int, int]) -> int:
    return size[0] * size[1] * size[2]


def _max_forward(p: Any, out: Arrays, x: Any) -> None:
    g = walk(p.window)
    y, winner, x = (planes_of(a) for a in (*out, x))
    max_pool_forward.plane(count(g.out), y.shape[0], y, winner, x, g)


def new_dx(p: Any, dy: Any) -> Any:
    return empty((*dy.shape[:2], *p.window.size), dy.dtype)


def _max_backward(p: Any, needs: tuple[bool, ...], dy: Any, winner: Any) -> Arrays:
    if not needs[0]:
        return (None,)
    g = walk(p.window)
    dx = new_dx(p, dy)
    planes = planes_of(dx)
    winner_backward.plane(count(g.size), planes.shape[0], planes, planes_of(dy), planes_of(winner), g)
    return (dx,)


def _avg_forward(p: Any, out: Arrays, x: Any) -> None:
    g = walk(p.window)
    y = planes_of(out[0])
    avg_pool_forward.plane(count(g.out), y.shape[0], y, planes_of(x), g, int(p.count_include_pad))


def _avg_backward(p: Any, needs: tuple[bool, ...], dy: Any) -> Arrays:
    if not needs[0]:
        return (None,)
    g = walk(p.window)
    dx = new_dx(p, dy)
    planes = planes_of(dx)
    avg_pool_backward.plane(count(g.size), planes.shape[0], planes, planes_of(dy), g, int(p.count_include_pad))
    return (dx,)


TABLE = {"max_pool": (_max_forward, _max_backward), "avg_pool": (_avg_forward, _avg_backward)}
