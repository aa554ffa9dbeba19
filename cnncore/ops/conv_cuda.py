"""Convolution on the device. Definition: conv.py.

Forward, dx and dw are one matrix product per group, out[i, j] = sum over l of A[i, l] B[l, j], in which A and B are
read from the arrays through the window and never built (an "implicit GEMM"):

              i (rows)       j (columns)            l (depth)             A[i, l]           B[l, j]
    FORWARD   filter         image, output pos.     input map, tap        w[i, l]           x under the tap
    INPUT     input map      image, input pos.      filter, tap           w[l's, i, tap]    dy that the tap reaches
    WEIGHT    filter         input map, tap         image, output pos.    dy[l's, i, pos.]  x under the tap

A block computes a tile of ROWS x COLUMNS results in steps of DEPTH: its threads fetch a slice of A and of B to shared
memory, then each thread adds DEPTH products to each of its EACH_ROW x EACH_COLUMN sums in registers. A warp holds
neighbouring columns, so it fetches and stores neighbours in memory. What a column or a depth index means (image or
map, and coordinates) is decoded once per block, or once per step by DEPTH of the threads.

dw sums over all images and positions, a long depth with few results: it is cut into parts by shape alone, every part
has its own blocks, and `fold` adds the parts in order. No atomics; results do not depend on scheduling.
Weak spot: with one filter per group (depthwise) only one row of a tile is used.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backends.kernel import (
    SIMULATED,
    THREADS,
    Float1,
    Float2,
    Float3,
    Float5,
    Int,
    Real,
    Triple,
    cuda,
    device,
    empty,
    flat,
    kernel,
    view,
)
from .geometry_cuda import Walk, WalkArg, three, unravel, walk
from .pointwise_cuda import relu_backward

Arrays = tuple[Any, ...]

# The tile. COLUMN_THREADS x ROW_THREADS threads, each with EACH_ROW x EACH_COLUMN results.
COLUMN_THREADS, ROW_THREADS = (2, 2) if SIMULATED else (32, 8)
EACH_ROW, EACH_COLUMN = (2, 8) if SIMULATED else (4, 4)
ROWS, COLUMNS, DEPTH = ROW_THREADS * EACH_ROW, COLUMN_THREADS * EACH_COLUMN, 16 if SIMULATED else 8
A_PITCH = ROWS + 1  # one unused column of the tile of A: neighbours along the depth lie in different banks
TILE_THREADS = COLUMN_THREADS * ROW_THREADS
PART = 64 if SIMULATED else 4096  # depth of one part of dw
MOST_PARTS = 64
RUN = 64 if SIMULATED else 1024  # terms that are added up before they are added to the sums of other runs
FORWARD, INPUT, WEIGHT = 0, 1, 2


@device
def accumulate(sums: Any, a: Any, b: Any, row: int, column: int, depth: int) -> None:
    """One step of a thread: sums += a[:depth, its rows] x b[:depth, its columns]."""
    for k in range(depth):
        for i in range(EACH_ROW):
            for j in range(EACH_COLUMN):
                sums[i, j] += a[k, row + ROW_THREADS * i] * b[k, column + COLUMN_THREADS * j]


@device
def end_run(whole: Any, sums: Any, me: int) -> None:
    """Add a run of a thread's sums to the sums of its other runs, and begin anew."""
    for i in range(EACH_ROW):
        for j in range(EACH_COLUMN):
            whole[i, j, me] += sums[i, j]
            sums[i, j] = sums.dtype.type(0)


@device
def locate(table: Any, e: int, index: int, shape: Any) -> int:
    """Write where a column or a depth index lies: its image or map, its coordinates. Returns its number there."""
    size = shape[0] * shape[1] * shape[2]
    table[0, e] = index // size
    table[1, e], table[2, e], table[3, e] = unravel(index % size, shape)
    return index % size


@device
def under(o: int, tap: int, stride: int, dilation: int, begin: int, size: int) -> int:
    """Along one axis: the position that output o reads through a tap, or -1 for padding."""
    at = o * stride - begin + tap * dilation
    return at if 0 <= at < size else -1


@device
def reached(i: int, tap: int, stride: int, dilation: int, begin: int, out: int) -> int:
    """Along one axis: the output that reads position i through a tap, or -1."""
    at = i + begin - tap * dilation
    return at // stride if at >= 0 and at % stride == 0 and at // stride < out else -1


Four = tuple[int, int, int, int]


@device
def element(b: Any, image: int, channel: int, d: int, h: int, w: int) -> Any:
    """An element of maps of rank 5, 0 on padding."""
    return b[image, channel, d, h, w] if d >= 0 and h >= 0 and w >= 0 else b.dtype.type(0)


# What a row and a depth index read of A, and a column and a depth index of B, for each of the three products. `first`
# and `number`: the depth index's map or image, and its place there. `column`, `depth`: image or map, and coordinates.


@device
def filters_by_row(a: Any, row: int, group: int, rows: int, maps: int, first: int, number: int) -> Any:
    return a[group * rows + row, first, number]


@device
def filters_by_depth(a: Any, row: int, group: int, rows: int, maps: int, first: int, number: int) -> Any:
    return a[group * maps + first, row, number]


@device
def dy_by_depth(a: Any, row: int, group: int, rows: int, maps: int, first: int, number: int) -> Any:
    return a[first, group * rows + row, number]


@device
def x_under(b: Any, column: Four, depth: Four, channel0: int, g: WalkArg) -> Any:
    """The column is an output, the depth index a map and a tap."""
    d = under(column[1], depth[1], g.stride[0], g.dilation[0], g.begin[0], g.size[0])
    h = under(column[2], depth[2], g.stride[1], g.dilation[1], g.begin[1], g.size[1])
    w = under(column[3], depth[3], g.stride[2], g.dilation[2], g.begin[2], g.size[2])
    return element(b, column[0], channel0 + depth[0], d, h, w)


@device
def dy_reached(b: Any, column: Four, depth: Four, channel0: int, g: WalkArg) -> Any:
    """The column is an input, the depth index a map and a tap."""
    d = reached(column[1], depth[1], g.stride[0], g.dilation[0], g.begin[0], g.out[0])
    h = reached(column[2], depth[2], g.stride[1], g.dilation[1], g.begin[1], g.out[1])
    w = reached(column[3], depth[3], g.stride[2], g.dilation[2], g.begin[2], g.out[2])
    return element(b, column[0], channel0 + depth[0], d, h, w)


@device
def x_by_tap(b: Any, column: Four, depth: Four, channel0: int, g: WalkArg) -> Any:
    """The column is a map and a tap, the depth index an image and an output: `x_under` with the two exchanged."""
    return x_under(b, depth, column, channel0, g)


@device
def finished(value: Any, bias: Any, row: int, relu: int) -> Any:
    """A sum with its bias, where there is one, and rectified."""
    if bias.shape[0] > 0:
        value += bias[row]
    if relu == 1 and value <= 0:  # so that NaN stays
        return bias.dtype.type(0)
    return value


def _product(read_a: Any, read_b: Any) -> Callable[..., None]:
    """The kernel above for one of the three products, given what it reads of A and B."""

    def product(
        out: Float3, a: Float3, b: Float5, bias: Float1, g: WalkArg, depth_shape: Triple, column_shape: Triple,
        groups: Int, columns: Int, depth: Int, part_depth: Int, relu: Int,
    ) -> None:  # fmt: skip
        """out (parts or N, rows of all groups, columns of one part or image); a is w (K, C/groups, taps) or dy
        (N, K, O); b is x or dy, of rank 5; bias (rows,) or empty; relu: 0 or 1."""
        a_tile = cuda.shared.array((DEPTH, A_PITCH), out.dtype)
        b_tile = cuda.shared.array((DEPTH, COLUMNS), out.dtype)
        at_column = cuda.shared.array((4, COLUMNS), np.int64)  # image or map, and coordinates, of every column
        at_depth = cuda.shared.array((5, DEPTH), np.int64)  # the same of every depth index, and its number
        sums = cuda.local.array((EACH_ROW, EACH_COLUMN), out.dtype)
        whole = cuda.shared.array((EACH_ROW, EACH_COLUMN, TILE_THREADS), out.dtype)  # of runs; registers are scarce
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        me, zero = ty * COLUMN_THREADS + tx, out.dtype.type(0)

        rows, maps = out.shape[1] // groups, b.shape[1] // groups  # of a group; maps of b
        row_tiles, column_tiles = (rows + ROWS - 1) // ROWS, (columns + COLUMNS - 1) // COLUMNS
        rest = cuda.blockIdx.x // column_tiles
        row0, column0 = rest % row_tiles * ROWS, cuda.blockIdx.x % column_tiles * COLUMNS
        group, part = rest // row_tiles % groups, rest // row_tiles // groups

        for i in range(EACH_ROW):
            for j in range(EACH_COLUMN):
                sums[i, j], whole[i, j, me] = zero, zero
        for e in range(me, COLUMNS, TILE_THREADS):
            locate(at_column, e, min(column0 + e, columns - 1), column_shape)

        for start in range(part * part_depth, min((part + 1) * part_depth, depth), DEPTH):
            steps = min(DEPTH, min((part + 1) * part_depth, depth) - start)
            for e in range(me, steps, TILE_THREADS):
                at_depth[4, e] = locate(at_depth, e, start + e, depth_shape)
            cuda.syncthreads()  # the tables are written, and the tiles of the step before are used up
            for e in range(me, ROWS * DEPTH, TILE_THREADS):
                i, k = e // DEPTH, e % DEPTH  # neighbouring threads along the depth, as A lies in memory
                first, place, inside = at_depth[0, k], at_depth[4, k], k < steps and row0 + i < rows
                a_tile[k, i] = read_a(a, row0 + i, group, rows, maps, first, place) if inside else zero
            for e in range(me, steps * COLUMNS, TILE_THREADS):
                k, j = e // COLUMNS, e % COLUMNS
                of_column = at_column[0, j], at_column[1, j], at_column[2, j], at_column[3, j]
                of_depth = at_depth[0, k], at_depth[1, k], at_depth[2, k], at_depth[3, k]
                b_tile[k, j] = read_b(b, of_column, of_depth, group * maps, g)
            cuda.syncthreads()
            accumulate(sums, a_tile, b_tile, ty, tx, steps)
            if start % RUN == RUN - DEPTH:
                end_run(whole, sums, me)

        end_run(whole, sums, me)
        for i in range(EACH_ROW):
            row = row0 + ty + ROW_THREADS * i
            for j in range(EACH_COLUMN):
                column = column0 + tx + COLUMN_THREADS * j
                if row < rows and column < columns:
                    value = finished(whole[i, j, me], bias, group * rows + row, relu)
                    out[part + column // out.shape[2], group * rows + row, column % out.shape[2]] = value

    return product


READS = {
    "conv_forward": (filters_by_row, x_under),
    "conv_input": (filters_by_depth, dy_reached),
    "conv_weight": (dy_by_depth, x_by_tap),
}
PRODUCTS = [kernel(_product(*reads), name) for name, reads in READS.items()]


@kernel
def fold(total: Float1, parts: Float2) -> None:
    """Sum over the first axis, in order; a thread per result."""
    for i in range(cuda.grid(1), total.shape[0], cuda.gridsize(1)):
        value = np.float64(0)
        for part in range(parts.shape[0]):
            value += parts[part, i]
        total[i] = value


@kernel
def sum_maps(total: Float1, a: Float3, scale: Real) -> None:
    """scale times the sum over the first and last axis: a block per map, a tree of float64 sums in shared memory."""
    partial = cuda.shared.array(THREADS, np.float64)
    me = cuda.threadIdx.x
    for channel in range(cuda.blockIdx.x, a.shape[1], cuda.gridDim.x):
        value = np.float64(0)
        for j in range(me, a.shape[0] * a.shape[2], THREADS):
            value += a[j // a.shape[2], channel, j % a.shape[2]]
        partial[me] = value
        cuda.syncthreads()
        half = THREADS // 2
        while half > 0:
            if me < half:
                partial[me] += partial[me + half]
            cuda.syncthreads()
            half //= 2
        if me == 0:
            total[channel] = total.dtype.type(partial[0]) * scale
        cuda.syncthreads()  # before the next map overwrites partial[0]


# --- on the host ---


def _size(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


def _launch(
    reading: int, out: Any, a: Any, b: Any, bias: Any, g: Walk, groups: int,
    depth_shape: tuple[int, int, int], column_shape: tuple[int, int, int], columns: int, depth: int, parts: int = 1,
    relu: int = 0,
) -> None:  # fmt: skip
    steps = -(-depth // (DEPTH * parts))
    tiles = -(-columns // COLUMNS) * -(-(out.shape[1] // groups) // ROWS) * groups * parts
    PRODUCTS[reading].blocks(
        tiles, (COLUMN_THREADS, ROW_THREADS), out, a, b, empty((0,), out.dtype) if bias is None else bias, g,
        depth_shape, column_shape, groups, columns, depth, steps * DEPTH, relu,
    )  # fmt: skip


def _rank5(a: Any) -> Any:
    return view(a, *a.shape[:2], *three(a.shape[2:], 1))


def _rank3(a: Any) -> Any:
    return view(a, *a.shape[:2], _size(three(a.shape[2:], 1)))


def convolve(y: Any, x: Any, w: Any, b: Any, g: Walk, groups: int, relu: int = 0) -> None:
    """y = x * w + b, or max(0, x * w + b)."""
    columns, depth = x.shape[0] * _size(g.out), w.shape[1] * _size(g.kernel)
    _launch(FORWARD, _rank3(y), _rank3(w), _rank5(x), b, g, groups, g.kernel, g.out, columns, depth, relu=relu)


def input_gradient(dy: Any, w: Any, g: Walk, groups: int, shape: tuple[int, ...]) -> Any:
    dx = empty(shape, dy.dtype)
    columns, depth = shape[0] * _size(g.size), w.shape[0] // groups * _size(g.kernel)
    _launch(INPUT, _rank3(dx), _rank3(w), _rank5(dy), None, g, groups, g.kernel, g.size, columns, depth)
    return dx


def weight_gradient(dy: Any, x: Any, g: Walk, groups: int, shape: tuple[int, ...]) -> Any:
    columns, depth = shape[1] * _size(g.kernel), x.shape[0] * _size(g.out)
    parts = max(1, min(MOST_PARTS, depth // PART))
    dw = empty(shape, dy.dtype)
    sums = empty((parts, shape[0], columns), dy.dtype) if parts > 1 else view(dw, 1, shape[0], columns)
    _launch(WEIGHT, sums, _rank3(dy), _rank5(x), None, g, groups, g.out, g.kernel, columns, depth, parts)
    if parts > 1:
        fold.over(shape[0] * columns, flat(dw), view(sums, parts, shape[0] * columns))
    return dw


def bias_gradient(dy: Any) -> Any:
    db = empty((dy.shape[1],), dy.dtype)
    sum_maps.blocks(dy.shape[1], THREADS, db, _rank3(dy), 1.0)
    return db


def _forward(p: Any, out: Arrays, x: Any, w: Any, b: Any) -> None:
    convolve(out[0], x, w, b, walk(p.window), p.groups, p.relu)


def gradients(g: Walk, groups: int, needs: tuple[bool, ...], dy: Any, x: Any, w: Any) -> Arrays:
    return (
        input_gradient(dy, w, g, groups, tuple(x.shape)) if needs[0] else None,
        weight_gradient(dy, x, g, groups, tuple(w.shape)) if needs[1] else None,
        bias_gradient(dy) if needs[2] else None,
    )


def _backward(p: Any, needs: tuple[bool, ...], dy: Any, x: Any, w: Any) -> Arrays:
    return gradients(walk(p.window), p.groups, needs, dy, x, w)


def _relu_backward(p: Any, needs: tuple[bool, ...], dy: Any, x: Any, w: Any, y: Any) -> Arrays:
    if not any(needs):
        return (None, None, None)
    above = empty(dy.shape, dy.dtype)
    relu_backward.over(math.prod(dy.shape), flat(above), flat(dy), flat(y))
    return _backward(p, needs, above, x, w)


TABLE = {"conv": (_forward, _backward), "conv_relu": (_forward, _relu_backward)}
