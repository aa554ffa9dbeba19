"""Units across feature maps: maxout. Kernels: csrc/units.c, units_cuda.py.

Map k of the result takes the `pieces` consecutive maps k pieces, ..., (k + 1) pieces - 1 of x, and of each a window.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import ShapeError
from . import domain, geometry
from .op import MAP, Arrays, Case, Op, Spec, register
from .pool import max_pool

Shape = tuple[int, ...]


def _params(op: str, x: Any, pieces: Any, kernel: Any, stride: Any, padding: Any) -> SimpleNamespace:
    """What both units compute from: the resolved window, `pieces`, and whether there is a window at all."""
    if not 3 <= len(x.shape) <= 5:
        raise ShapeError(f"{op}: x must be (N, C, *S) with 1 to 3 spatial axes, got shape {tuple(x.shape)}")
    pieces = geometry.integer(op, "pieces", pieces, 1)
    if x.shape[1] % pieces:
        raise ShapeError(f"{op}: x's maps ({x.shape[1]}) must be a multiple of pieces ({pieces})")
    window = geometry.resolve(op, x.shape[2:], kernel, kernel if stride is None else stride, padding)
    geometry.reject_padding_only(op, window)
    pooled = window.size != window.out or window.taps > 1
    return SimpleNamespace(window=window, pieces=pieces, pooled=pooled)


def _domain(draw: domain.Draw) -> tuple[Shape, dict[str, Any]]:
    """The shape of x, and attributes that fit it."""
    rank, pieces = draw.choice([2, 1, 3]), draw.integer(1, 3)
    kernel = tuple(draw.choice([1, 2, 3]) for _ in range(rank)) if draw.choice([True, False]) else (1,) * rank
    padding = tuple((draw.integer(0, k - 1), draw.integer(0, k - 1)) for k in kernel)
    size = tuple(k + draw.integer(0, 3) for k in kernel)
    stride = draw.choice([None, 1, 2])
    shape = (draw.integer(1, 2), pieces * draw.integer(1, 2), *size)
    return shape, {"pieces": pieces, "kernel": kernel, "stride": stride, "padding": padding}


def _flops(spec: Spec, arrays: Arrays) -> tuple[int, int]:
    p = spec.params
    count = math.prod(spec.results["y"][0]) * p.pieces * p.window.taps
    return count, count


# --- maxout ---


def maxout_rule(x: Any, *, pieces: int, kernel: Any = 1, stride: Any = None, padding: Any = 0) -> Spec:
    """Maxout: the largest of `pieces` consecutive maps, and over a window of each where `kernel` is more than 1.

    y_k = max over the pieces j and the window R of x_{k pieces + j}.

    Gradient: dy to the winner, 0 to the others.

    Shapes: x (N, K pieces, *S) to y (N, K, *O), rank 1 to 3. `kernel`, `stride` (default: kernel): an int or one per
    axis; `padding`: an int, one per axis or a (begin, end) pair per axis.
    Edges: of equals the first position in row-major order wins, and of the maps at that position the first. A NaN gives
    NaN. Padding never wins. One piece and kernel 1 is the identity. No ReLU before it: y may be negative.
    `piece` (N, K, *S) and `winner` (N, K, *O), kept for backward, are the largest map's number at every position, and
    the position's number in the window (empty without a window).
    Raises ShapeError, DTypeError.
    Source: the paper's 2.6; Goodfellow et al. 2013.
    """
    p = _params("maxout", x, pieces, kernel, stride, padding)
    maps = (x.shape[0], x.shape[1] // p.pieces)
    winner = (*maps, *p.window.out) if p.pooled else (0, *maps[1:], *p.window.out)
    results = {
        "y": ((*maps, *p.window.out), None),
        "piece": ((*maps, *p.window.size), np.int32),
        "winner": (winner, np.int32),
    }
    return Spec(p, results)


def maxout_forward(p: Any, x: np.ndarray) -> Arrays:
    n, c, *size = x.shape
    grouped = x.reshape(n, c // p.pieces, p.pieces, *size)
    piece = np.argmax(grouped, axis=2)  # the first NaN, or else the first of the largest
    largest = np.take_along_axis(grouped, piece[:, :, None], axis=2)[:, :, 0]
    if not p.pooled:
        return largest, piece.astype(np.int32), np.empty((0, *largest.shape[1:]), np.int32)
    y, winner = max_pool.op.forward(p, largest)  # type: ignore[attr-defined]
    return y, piece.astype(np.int32), winner


def maxout_backward(
    p: Any, needs: tuple[bool, ...], dy: np.ndarray, piece: np.ndarray, winner: np.ndarray
) -> Arrays:  # fmt: skip
    if not needs[0]:
        return (None,)
    if p.pooled:
        (dy,) = max_pool.op.backward(p, needs, dy, winner)  # type: ignore[attr-defined]
    n, k, *size = dy.shape
    number = np.arange(p.pieces).reshape(-1, *(1,) * len(size))
    spread = np.where(piece[:, :, None] == number, dy[:, :, None], 0)
    return (spread.reshape(n, k * p.pieces, *size),)


def maxout_domain(draw: domain.Draw) -> Case:
    shape, attrs = _domain(draw)
    x, gap = draw.distinct(*shape)
    return Case((x,), attrs, gap)


maxout = register(
    Op(
        "maxout", maxout_rule, maxout_forward, maxout_backward, {"x": MAP}, ("piece", "winner"), maxout_domain, _flops
    )
)  # fmt: skip
