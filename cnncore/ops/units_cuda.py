"""maxout on the device: over the pieces at every position, then over windows by pool_cuda.py. Definition: units.py.

Arrays are (N K, pieces, pixels) and (N K, pixels): a row per group of maps. Threads run along pixels and over rows.
"""

import math
from typing import Any

from ..backends.kernel import Float2, Float3, Int2, cuda, empty, kernel, view
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


TABLE = {"maxout": (_maxout_forward, _maxout_backward)}
