"""subtractive_norm and divisive_norm on the device. Definition: contrast.py.

An image's maps (N, C, P) are reduced to one plane (N, P); the plane is blurred along one axis after the other, as
(outer, n, inner); then the maps are gone through once more. A thread owns elements; neighbouring threads own
neighbouring positions. A plane's mean is `sum_maps` of conv_cuda.py, a block per plane.
"""

import math
from typing import Any

import numpy as np

from ..backends.kernel import THREADS, Float1, Float2, Float3, Int, Int2, Real, cuda, device, empty, kernel, view
from .contrast import FLOOR, MEAN, RESPONSE, gaussian, slide
from .conv_cuda import sum_maps

Arrays = tuple[Any, ...]


@device
def reference(a: Any, n: int, centred: int) -> Any:
    """What an image's elements are taken less: its first one, if it is asked for and finite."""
    first = a[n, 0, 0]
    return first if centred and first - first == 0 else a.dtype.type(0)


@kernel
def sum_over_maps(plane: Float2, a: Float3, b: Float3, squared: Int, centred: Int, scale: Real) -> None:
    """plane = scale (sum over the maps of a b), of a alone (see `reference`) where `squared` is 0."""
    first, image0 = cuda.grid(2)
    step, images = cuda.gridsize(2)
    for n in range(image0, a.shape[0], images):
        less = reference(a, n, centred)
        for s in range(first, a.shape[2], step):
            total = np.float64(0)
            for c in range(a.shape[1]):
                total += a[n, c, s] * b[n, c, s] if squared else a[n, c, s] - less
            plane[n, s] = a.dtype.type(total) * scale


@kernel
def blur_axis(y: Float3, a: Float3, weights: Float1, whole: Float1, before: Int, after: Int, turned: Int) -> None:
    """`weights` of the distances -before ... after, whose real ones sum to `whole`; turned: the transpose."""
    first, outer0 = cuda.grid(2)
    step, outers = cuda.gridsize(2)
    low, high = (after, before) if turned else (before, after)
    for o in range(outer0, a.shape[0], outers):
        for at in range(first, a.shape[1] * a.shape[2], step):
            s, i = at // a.shape[2], at % a.shape[2]
            total = np.float64(0)
            for t in range(max(s - low, 0), min(s + high + 1, a.shape[1])):
                if turned:
                    total += weights[s - t + before] * a[o, t, i] / whole[t]
                else:
                    total += weights[t - s + before] * a[o, t, i]
            sum_ = a.dtype.type(total)
            y[o, s, i] = sum_ if turned else sum_ / whole[s]


@kernel
def subtract_plane(y: Float3, x: Float3, plane: Float2, centred: Int) -> None:
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    for row in range(row0, x.shape[0] * x.shape[1], rows):
        n, c = row // x.shape[1], row % x.shape[1]
        less = reference(x, n, centred)
        for s in range(first, x.shape[2], step):
            y[n, c, s] = (x[n, c, s] - less) - plane[n, s]


@kernel
def take_root(r: Float2, square: Float2) -> None:
    first, image0 = cuda.grid(2)
    step, images = cuda.gridsize(2)
    for n in range(image0, r.shape[0], images):
        for s in range(first, r.shape[1], step):
            r[n, s] = math.sqrt(square[n, s])


@kernel
def local_divisors(d: Float2, winner: Int2, r: Float2, mean: Float1, floor: Real, equal: Real) -> None:
    """d = max(r, its mean, floor), and what it is. `equal`: 1 + 64 eps."""
    first, image0 = cuda.grid(2)
    step, images = cuda.gridsize(2)
    for n in range(image0, d.shape[0], images):
        least = floor if mean[n] < floor else mean[n]  # so that NaN stays
        below = MEAN if mean[n] > equal * floor else FLOOR
        for s in range(first, d.shape[1], step):
            d[n, s] = least if r[n, s] < least or least != least else r[n, s]
            winner[n, s] = RESPONSE if r[n, s] > equal * least else below


@kernel
def divide_plane(y: Float3, x: Float3, d: Float2) -> None:
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    for row in range(row0, x.shape[0] * x.shape[1], rows):
        n, c = row // x.shape[1], row % x.shape[1]
        for s in range(first, x.shape[2], step):
            y[n, c, s] = x[n, c, s] / d[n, s]


@kernel
def to_divisors(own: Float2, shared: Float2, d: Float2, winner: Int2) -> None:
    """own comes as -(sum over the maps of dy x). What divisors give to their r stays there, to the mean in `shared`."""
    first, image0 = cuda.grid(2)
    step, images = cuda.gridsize(2)
    zero = d.dtype.type(0)
    for n in range(image0, d.shape[0], images):
        for s in range(first, d.shape[1], step):
            u = own[n, s] / d[n, s] / d[n, s]
            own[n, s] = u if winner[n, s] == RESPONSE else zero
            shared[n, s] = u if winner[n, s] == MEAN else zero


@kernel
def to_squares(own: Float2, through_mean: Float1, r: Float2) -> None:
    """The gradient to r, as one to r^2 / 2."""
    first, image0 = cuda.grid(2)
    step, images = cuda.gridsize(2)
    for n in range(image0, r.shape[0], images):
        for s in range(first, r.shape[1], step):
            own[n, s] = (own[n, s] + through_mean[n]) / r[n, s] if r[n, s] != 0 else r.dtype.type(0)


@kernel
def divide_backward(dx: Float3, dy: Float3, x: Float3, d: Float2, e: Float2, maps: Real) -> None:
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    for row in range(row0, x.shape[0] * x.shape[1], rows):
        n, c = row // x.shape[1], row % x.shape[1]
        for s in range(first, x.shape[2], step):
            dx[n, c, s] = dy[n, c, s] / d[n, s] + x[n, c, s] * (e[n, s] / maps)


# --- on the host ---


def _rank3(a: Any) -> Any:
    return view(a, *a.shape[:2], math.prod(a.shape[2:]))


def _maps(kernel_: Any, y: Any, *args: Any) -> None:
    kernel_.plane(y.shape[2], y.shape[0] * y.shape[1], y, *args)


def _sum(x: Any, other: Any, scale: float, centred: bool = False) -> Any:
    """The plane (N, P) of scale (sum over the maps of x other), of x alone (see `reference`) where other is None."""
    plane = empty((x.shape[0], x.shape[2]), x.dtype)
    squared = other is not None
    sum_over_maps.plane(x.shape[2], x.shape[0], plane, x, other if squared else x, int(squared), int(centred), scale)
    return plane


def _blur(p: Any, plane: Any, size: tuple[int, ...], turned: bool) -> Any:
    for axis, n in enumerate(size):
        before, after, sigma = (values[3 - len(size) + axis] for values in (p.before, p.after, p.sigma))
        if not before + after:
            continue
        weights = gaussian(before, after, sigma)
        whole = slide(np.ones(n), 0, weights, before).astype(plane.dtype)
        outer, inner = plane.shape[0] * math.prod(size[:axis]), math.prod(size[axis + 1 :])
        other = empty(plane.shape, plane.dtype)
        blur_axis.plane(
            n * inner, outer, view(other, outer, n, inner), view(plane, outer, n, inner),
            cuda.to_device(np.array(weights, plane.dtype)), cuda.to_device(whole), before, after, int(turned),
        )  # fmt: skip
        plane = other
    return plane


def _subtract(p: Any, y: Any, x: Any, turned: bool) -> None:
    size, y, x = x.shape[2:], _rank3(y), _rank3(x)
    if 0 not in x.shape:
        plane = _blur(p, _sum(x, None, 1 / x.shape[1], not turned), size, turned)
        _maps(subtract_plane, y, x, plane, int(not turned))


def _subtractive_forward(p: Any, out: Arrays, x: Any) -> None:
    _subtract(p, out[0], x, False)


def _subtractive_backward(p: Any, needs: tuple[bool, ...], dy: Any) -> Arrays:
    if not needs[0]:
        return (None,)
    dx = empty(dy.shape, dy.dtype)
    _subtract(p, dx, dy, True)
    return (dx,)


def _planes(kernel_: Any, a: Any, *args: Any) -> None:
    kernel_.plane(a.shape[1], a.shape[0], a, *args)


def _means(plane: Any) -> Any:
    """The mean of every plane of (N, P)."""
    mean = empty(plane.shape[:1], plane.dtype)
    sum_maps.blocks(plane.shape[0], THREADS, mean, view(plane, 1, *plane.shape), 1 / plane.shape[1])
    return mean


def _divisive_forward(p: Any, out: Arrays, x: Any) -> None:
    if 0 in x.shape:
        return
    size, equal = x.shape[2:], 1 + 64 * float(np.finfo(x.dtype).eps)
    x, y = _rank3(x), _rank3(out[0])
    r, d, winner = (view(a, x.shape[0], x.shape[2]) for a in out[1:])
    _planes(take_root, r, _blur(p, _sum(x, x, 1 / x.shape[1]), size, False))
    _planes(local_divisors, d, winner, r, _means(r), p.floor, equal)
    _maps(divide_plane, y, x, d)


def _divisive_backward(
    p: Any, needs: tuple[bool, ...], dy: Any, x: Any, local: Any, divisor: Any, winner: Any
) -> Arrays:  # fmt: skip
    if not needs[0]:
        return (None,)
    result, size = empty(dy.shape, dy.dtype), dy.shape[2:]
    if 0 in dy.shape:
        return (result,)
    dx, dy, x = _rank3(result), _rank3(dy), _rank3(x)
    r, d, winner = (view(a, x.shape[0], x.shape[2]) for a in (local, divisor, winner))
    e, shared = _sum(dy, x, -1.0), empty(r.shape, r.dtype)
    _planes(to_divisors, e, shared, d, winner)
    _planes(to_squares, e, _means(shared), r)
    _maps(divide_backward, dx, dy, x, d, _blur(p, e, size, True), x.shape[1])
    return (result,)


TABLE = {
    "subtractive_norm": (_subtractive_forward, _subtractive_backward),
    "divisive_norm": (_divisive_forward, _divisive_backward),
}
