"""relu, sigmoid, tanh, dropout, add, concat and slice on the device. Definition: pointwise.py.

Arrays are flat; thread i takes elements i, i + grid size, ..., so a warp reads and writes neighbours. `block_copy` is
two-dimensional: threads run along a row of both arrays, and over rows.
"""

import math
from typing import Any

from ..backends.kernel import Byte1, Float1, Float2, Int, Real, copy, cuda, empty, flat, kernel, view

Arrays = tuple[Any, ...]


@kernel
def relu_forward(y: Float1, x: Float1) -> None:
    for i in range(cuda.grid(1), y.shape[0], cuda.gridsize(1)):
        v = x[i]
        y[i] = x.dtype.type(0) if v <= 0 else v  # so that NaN stays


@kernel
def relu_backward(dx: Float1, dy: Float1, y: Float1) -> None:
    for i in range(cuda.grid(1), dx.shape[0], cuda.gridsize(1)):
        dx[i] = dy.dtype.type(0) if y[i] <= 0 else dy[i]


@kernel
def sigmoid_forward(y: Float1, x: Float1) -> None:
    for i in range(cuda.grid(1), y.shape[0], cuda.gridsize(1)):
        v = x[i]
        e = x.dtype.type(math.exp(-abs(v)))
        one = x.dtype.type(1)
        y[i] = (one if v >= 0 else e) / (one + e)


@kernel
def sigmoid_backward(dx: Float1, dy: Float1, y: Float1) -> None:
    for i in range(cuda.grid(1), dx.shape[0], cuda.gridsize(1)):
        dx[i] = dy[i] * y[i] * (y.dtype.type(1) - y[i])


@kernel
def tanh_forward(y: Float1, x: Float1) -> None:
    for i in range(cuda.grid(1), y.shape[0], cuda.gridsize(1)):
        y[i] = math.tanh(x[i])


@kernel
def tanh_backward(dx: Float1, dy: Float1, y: Float1) -> None:
    for i in range(cuda.grid(1), dx.shape[0], cuda.gridsize(1)):
        one = y.dtype.type(1)
        dx[i] = dy[i] * ((one - y[i]) * (one + y[i]))


@kernel
def dropout_forward(y: Float1, kept: Byte1, x: Float1, u: Float1, p: Real, scale: Real) -> None:
    for i in range(cuda.grid(1), y.shape[0], cuda.gridsize(1)):
        keep = u[i] >= p
        kept[i] = 1 if keep else 0
        y[i] = x[i] * scale if keep else x.dtype.type(0)


@kernel
def dropout_backward(dx: Float1, dy: Float1, kept: Byte1, scale: Real) -> None:
    for i in range(cuda.grid(1), dx.shape[0], cuda.gridsize(1)):
        dx[i] = dy[i] * scale if kept[i] else dy.dtype.type(0)


@kernel
def choose_maps(kept: Byte1, u: Float1, p: Real) -> None:
    for i in range(cuda.grid(1), kept.shape[0], cuda.gridsize(1)):
        kept[i] = 1 if u[i] >= p else 0


@kernel
def drop_maps(y: Float2, x: Float2, kept: Byte1, scale: Real) -> None:
    """A row per map."""
    first, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    for row in range(row0, y.shape[0], rows):
        for i in range(first, y.shape[1], step):
            y[row, i] = x[row, i] * scale if kept[row] else x.dtype.type(0)


@kernel
def add_pair(y: Float1, a: Float1, b: Float1) -> None:
    for i in range(cuda.grid(1), y.shape[0], cuda.gridsize(1)):
        y[i] = a[i] + b[i]


@kernel
def block_copy(to: Float2, source: Float2, to_at: Int, source_at: Int, width: Int) -> None:
    """`width` columns of every row, from one column on in one array to another one in the other."""
    column, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    for row in range(row0, to.shape[0], rows):
        for j in range(column, width, step):
            to[row, to_at + j] = source[row, source_at + j]


@kernel
def slice_backward(dx: Float2, dy: Float2, before: Int) -> None:
    """Row by row: dy from column `before` on, 0 in the other columns."""
    column, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    for row in range(row0, dx.shape[0], rows):
        for j in range(column, dx.shape[1], step):
            inside = before <= j < before + dy.shape[1]
            dx[row, j] = dy[row, j - before] if inside else dx.dtype.type(0)


# --- on the host ---


def _function(forward: Any) -> Any:
    """The host's side of y = f(x)."""

    def run(p: Any, out: Arrays, x: Any) -> None:
        y = flat(out[0])
        forward.over(y.shape[0], y, flat(x))

    return run


def _from_output(backward: Any) -> Any:
    """The host's side of a gradient that reads dy and y."""

    def run(p: Any, needs: tuple[bool, ...], dy: Any, y: Any) -> Arrays:
        if not needs[0]:
            return (None,)
        dx = empty(dy.shape, dy.dtype)
        into = flat(dx)
        backward.over(into.shape[0], into, flat(dy), flat(y))
        return (dx,)

    return run


def _drop_maps(to: Any, source: Any, kept: Any, p: Any) -> None:
    y, x = _rows(to, 2), _rows(source, 2)
    drop_maps.plane(y.shape[1], y.shape[0], y, x, flat(kept), 1 / (1 - p.p))


def _dropout_forward(p: Any, out: Arrays, x: Any, u: Any) -> None:
    y, kept = (flat(a) for a in out)
    if p.maps:
        choose_maps.over(kept.shape[0], kept, flat(u), p.p)
        _drop_maps(out[0], x, kept, p)
    else:
        dropout_forward.over(y.shape[0], y, kept, flat(x), flat(u), p.p, 1 / (1 - p.p))


def _dropout_backward(p: Any, needs: tuple[bool, ...], dy: Any, kept: Any) -> Arrays:
    if not needs[0]:
        return None, None
    dx = empty(dy.shape, dy.dtype)
    if p.maps:
        _drop_maps(dx, dy, kept, p)
    else:
        into = flat(dx)
        dropout_backward.over(into.shape[0], into, flat(dy), flat(kept), 1 / (1 - p.p))
    return dx, None


def _copy(a: Any) -> Any:
    fresh = empty(a.shape, a.dtype)
    copy(fresh, a)
    return fresh


def _add_forward(p: Any, out: Arrays, *xs: Any) -> None:
    if len(xs) == 1:
        copy(out[0], xs[0])
    y, left = flat(out[0]), flat(xs[0])
    for x in xs[1:]:
        add_pair.over(y.shape[0], y, left, flat(x))
        left = y


def _add_backward(p: Any, needs: tuple[bool, ...], dy: Any) -> Arrays:
    return tuple(_copy(dy) if need else None for need in needs)


def _rows(a: Any, axis: int) -> Any:
    """The axes before `axis` as rows, all others as columns."""
    return view(a, math.prod(a.shape[:axis]), math.prod(a.shape[axis:]))


def _concat_forward(p: Any, out: Arrays, *xs: Any) -> None:
    y, at = _rows(out[0], p.axis), 0
    for x in xs:
        part = _rows(x, p.axis)
        block_copy.plane(part.shape[1], part.shape[0], y, part, at, 0, part.shape[1])
        at += part.shape[1]


def _concat_backward(p: Any, needs: tuple[bool, ...], dy: Any) -> Arrays:
    source, at, grads = _rows(dy, p.axis), 0, []
    for size, need in zip(p.sizes, needs, strict=True):
        dx = empty((*dy.shape[: p.axis], size, *dy.shape[p.axis + 1 :]), dy.dtype)
        part = _rows(dx, p.axis)
        if need:
            block_copy.plane(part.shape[1], part.shape[0], part, source, 0, at, part.shape[1])
        at += part.shape[1]
        grads.append(dx if need else None)
    return tuple(grads)


def _slice_forward(p: Any, out: Arrays, x: Any) -> None:
    y, source = _rows(out[0], 1), _rows(x, 1)
    block_copy.plane(y.shape[1], y.shape[0], y, source, 0, p.start * math.prod(x.shape[2:]), y.shape[1])


def _slice_backward(p: Any, needs: tuple[bool, ...], dy: Any) -> Arrays:
    if not needs[0]:
        return (None,)
    dx = empty((dy.shape[0], p.maps, *dy.shape[2:]), dy.dtype)
    into, part = _rows(dx, 1), _rows(dy, 1)
    slice_backward.plane(into.shape[1], into.shape[0], into, part, p.start * math.prod(dy.shape[2:]))
    return (dx,)


TABLE = {
    "relu": (_function(relu_forward), _from_output(relu_backward)),
    "sigmoid": (_function(sigmoid_forward), _from_output(sigmoid_backward)),
    "tanh": (_function(tanh_forward), _from_output(tanh_backward)),
    "dropout": (_dropout_forward, _dropout_backward),
    "add": (_add_forward, _add_backward),
    "concat": (_concat_forward, _concat_backward),
    "slice": (_slice_forward, _slice_backward),
}
