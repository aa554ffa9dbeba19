"""subtractive_norm and divisive_norm on the device. Definition: contrast.py.

An image's maps (N, C, P) are reduced to one plane (N, P); the plane is blurred along one axis after the other, as
(outer, n, inner); then the maps are gone through once more. A thread owns elements; neighbouring threads own
neighbouring positions. What is summed over an image's plane is summed by one thread: a plane is small beside the maps.
"""

import math
from typing import Any

import numpy as np

from ..backends.kernel import Float1, Float2, Float3, Int, Real, cuda, empty, kernel, view
from .contrast import gaussian, slide

Arrays = tuple[Any, ...]


@kernel
def sum_over_maps(plane: Float2, a: Float3, b: Float3, squared: Int, scale: Real) -> None:
    """plane = scale (sum over the maps of a b), of a alone where `squared` is 0."""
    first, image0 = cuda.grid(2)
    step, images = cuda.gridsize(2)
    for n in range(image0, a.shape[0], images):
        for s in range(first, a.shape[2], step):
            total = a.dtype.type(0)
            for c in range(a.shape[1]):
                total += a[n, c, s] * b[n, c, s] if squared else a[n, c, s]
            plane[n, s] = total * scale


@kernel
def blur_axis(y: Float3, a: Float3, weights: Float1, whole: Float1, before: Int, after: Int, turned: Int) -> None:
    """`weights` of the distances -before ... after, whose real ones sum to `whole`; turned: the transpose."""
    first, outer0 = cuda.grid(2)
    step, outers = cuda.gridsize(2)
    low, high = (after, before) if turned else (before, after)
    for o in range(outer0, a.shape[0], outers):
        for at in range(first, a.shape[1] * a.shape[2], step):
            s, i = at // a.shape[2], at % a.shape[2]
            total = a.dtype.type(0)
            for t in range(max(s - low, 0), min(s + high + 1, a.shape[1])):
                if turned:
                    total += weights[s - t + before] * a[o, t, i] / whole[t]
                else:
                    total += weights[t - s + before] * a[o, t, i]
            y[o, s, i] = total if turned else total / whole[s]


@kernel
def subtract_plane(y: Float3, x: Float3, plane: Float2) -> None:
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    for row in range(row0, x.shape[0] * x.shape[1], rows):
        n, c = row // x.shape[1], row % x.shape[1]
        for s in range(first, x.shape[2], step):
            y[n, c, s] = x[n, c, s] - plane[n, s]


@kernel
def local_divisors(d: Float2, local: Float2, square: Float2, known: Int, count: Real, floor: Real) -> None:
    """local = sqrt(square), unless it is known; d = max(local, its mean, floor). A thread per image."""
    for n in range(cuda.grid(1), d.shape[0], cuda.gridsize(1)):
        total = d.dtype.type(0)
        for s in range(d.shape[1]):
            if not known:
                local[n, s] = math.sqrt(square[n, s])
            total += local[n, s]
        mean = total / count
        least = floor if mean < floor else mean  # so that NaN stays
        for s in range(d.shape[1]):
            r = local[n, s]
            d[n, s] = least if r < least or least != least else r


@kernel
def divide_plane(y: Float3, x: Float3, d: Float2) -> None:
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    for row in range(row0, x.shape[0] * x.shape[1], rows):
        n, c = row // x.shape[1], row % x.shape[1]
        for s in range(first, x.shape[2], step):
            y[n, c, s] = x[n, c, s] / d[n, s]


@kernel
def to_local(e: Float2, d: Float2, local: Float2, count: Real, floor: Real) -> None:
    """e comes as -(sum over the maps of dy x) and becomes the gradient to r^2 / 2. A thread per image."""
    for n in range(cuda.grid(1), d.shape[0], cuda.gridsize(1)):
        total = d.dtype.type(0)
        for s in range(d.shape[1]):
            total += local[n, s]
        mean = total / count
        shared = d.dtype.type(0)
        for s in range(d.shape[1]):
            u = e[n, s] / (d[n, s] * d[n, s])
            own = local[n, s] >= mean and local[n, s] >= floor
            e[n, s] = u if own else d.dtype.type(0)
            if not own and mean >= floor:
                shared += u
        shared = shared / count
        for s in range(d.shape[1]):
            r = local[n, s]
            e[n, s] = (e[n, s] + shared) / r if r != 0 else d.dtype.type(0)


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


def _sum(x: Any, other: Any, scale: float) -> Any:
    """The plane (N, P) of scale (sum over the maps of x other), of x alone where other is None."""
    plane = empty((x.shape[0], x.shape[2]), x.dtype)
    squared = other is not None
    sum_over_maps.plane(x.shape[2], x.shape[0], plane, x, other if squared else x, int(squared), scale)
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
        _maps(subtract_plane, y, x, _blur(p, _sum(x, None, 1 / x.shape[1]), size, turned))


def _subtractive_forward(p: Any, out: Arrays, x: Any) -> None:
    _subtract(p, out[0], x, False)


def _subtractive_backward(p: Any, needs: tuple[bool, ...], dy: Any) -> Arrays:
    if not needs[0]:
        return (None,)
    dx = empty(dy.shape, dy.dtype)
    _subtract(p, dx, dy, True)
    return (dx,)


def _divisive_forward(p: Any, out: Arrays, x: Any) -> None:
    size, x, (y, local) = x.shape[2:], _rank3(x), (_rank3(a) for a in out)
    if 0 in x.shape:
        return
    local = view(local, local.shape[0], local.shape[2])
    square = _blur(p, _sum(x, x, 1 / x.shape[1]), size, False)
    d = empty(local.shape, local.dtype)
    local_divisors.over(d.shape[0], d, local, square, 0, d.shape[1], p.floor)
    _maps(divide_plane, y, x, d)


def _divisive_backward(p: Any, needs: tuple[bool, ...], dy: Any, x: Any, local: Any) -> Arrays:
    if not needs[0]:
        return (None,)
    result, size = empty(dy.shape, dy.dtype), dy.shape[2:]
    dx, dy, x, local = _rank3(result), _rank3(dy), _rank3(x), view(local, local.shape[0], math.prod(size))
    if 0 in x.shape:
        return (result,)
    d = empty(local.shape, local.dtype)
    local_divisors.over(d.shape[0], d, local, local, 1, d.shape[1], p.floor)
    e = _sum(dy, x, -1.0)
    to_local.over(d.shape[0], e, d, local, d.shape[1], p.floor)
    _maps(divide_backward, dx, dy, x, d, _blur(p, e, size, True), x.shape[1])
    return (result,)


TABLE = {
    "subtractive_norm": (_subtractive_forward, _subtractive_backward),
    "divisive_norm": (_divisive_forward, _divisive_backward),
}
