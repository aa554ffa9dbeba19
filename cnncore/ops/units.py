"""Units across feature maps: maxout, lp_unit. Kernels: csrc/units.c, units_cuda.py.

Map k of the result takes the `pieces` consecutive maps k pieces, ..., (k + 1) pieces - 1 of x, and of each a window.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import ShapeError
from . import domain, geometry
from .op import Op
from .pool import max_pool
from .records import register
from .roles import DENSE, MAP
from .spec import Arrays, Case, Spec
from .sums import total

Shape = tuple[int, ...]
MOST_PIECES = 256  # maxout keeps the number of every winner in a byte


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

    Shapes: x (N, K pieces, *S) to y (N, K, *O), rank 1 to 3, `pieces` from 1 to 256. `kernel`, `stride` (default:
    kernel): an int or one per axis; `padding`: an int, one per axis or a (begin, end) pair per axis.
    Edges: of equals the first position in row-major order wins, and of the maps at that position the first. A NaN gives
    NaN. Padding never wins. One piece and kernel 1 is the identity. No ReLU before it: y may be negative.
    `piece` (N, K, *S) and `winner` (N, K, *O), kept for backward, are the largest map's number at every position, and
    the position's number in the window (empty without a window).
    Raises ShapeError, DTypeError.
    Source: the paper's 2.6; Goodfellow et al. 2013.
    """
    p = _params("maxout", x, pieces, kernel, stride, padding)
    if p.pieces > MOST_PIECES:
        raise ShapeError(f"maxout: pieces must be at most {MOST_PIECES}, got {p.pieces}")
    maps = (x.shape[0], x.shape[1] // p.pieces)
    winner = (*maps, *p.window.out) if p.pooled else (0, *maps[1:], *p.window.out)
    results = {
        "y": ((*maps, *p.window.out), None),
        "piece": ((*maps, *p.window.size), np.uint8),
        "winner": (winner, np.int32),
    }
    return Spec(p, results)


def maxout_forward(p: Any, x: np.ndarray) -> Arrays:
    n, c, *size = x.shape
    grouped = x.reshape(n, c // p.pieces, p.pieces, *size)
    piece = np.argmax(grouped, axis=2)  # the first NaN, or else the first of the largest
    largest = np.take_along_axis(grouped, piece[:, :, None], axis=2)[:, :, 0]
    if not p.pooled:
        return largest, piece.astype(np.uint8), np.empty((0, *largest.shape[1:]), np.int32)
    y, winner = max_pool.op.forward(p, largest)  # type: ignore[attr-defined]
    return y, piece.astype(np.uint8), winner


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

# --- lp_unit ---


def lp_unit_rule(
    x: Any, rho: Any, center: Any = None, *, pieces: int, kernel: Any = 1, stride: Any = None, padding: Any = 0
) -> Spec:
    """Lp unit: the norm of `pieces` consecutive maps and a window, each result map with a learnt p of its own.

    y_k = m s^(1/p),   s = (1/n) sum of t_i^p,   t_i = |z_i| / m,   m = max |z_i|,   z_i = x_i - c_i,
    p = 1 + log(1 + exp(rho_k)):

    the p-norm of the mean, ((1/n) sum of |z_i|^p)^(1/p), without its overflow; i over the n real elements of the
    pieces' windows; c_i is the center of i's map (0 without `center`).

    Gradient: to x_i, (dy / n) sign(z_i) t_i^(p-1) s^(1/p-1); to a center, minus the sum of that over its map; to rho_k,
    the sum of dy (y / p) (sum of t_i^p log t_i / (n s) - log(s) / p) / (1 + exp(-rho_k)).

    Shapes: x (N, K pieces, *S), rho (K,), center (K pieces,) or None, y (N, K, *O), rank 1 to 3. `kernel`, `stride`
    (default: kernel): an int or one per axis; `padding`: an int, one per axis or a (begin, end) pair per axis.
    Edges: nothing overflows or vanishes, whatever p and the size of x. A window where all z are 0 gives 0 and zero
    gradients; an element with z = 0 gets 0, any other t_i counts as the smallest normal number at least. p = 1 (rho
    below about -17 in float32) is the mean of |z|, with gradient sign(z) / n. Padding is no element. Inf gives Inf and
    NaN gives NaN; either way the gradient to all elements of the window, their centers and rho_k is NaN.
    Raises ShapeError, DTypeError.
    Source: the paper's 2.6; Gulcehre et al. 2013.
    """
    p = _params("lp_unit", x, pieces, kernel, stride, padding)
    shape = (x.shape[0], x.shape[1] // p.pieces, *p.window.out)
    if tuple(rho.shape) != shape[1:2]:
        raise ShapeError(f"lp_unit: rho must have one value per result map, ({shape[1]},), got {tuple(rho.shape)}")
    if center is not None and tuple(center.shape) != (x.shape[1],):
        raise ShapeError(f"lp_unit: center must have a value per map of x, ({x.shape[1]},), got {tuple(center.shape)}")
    return Spec(p, {"y": (shape, None)})


def _elements(p: Any, x: np.ndarray, center: np.ndarray | None) -> np.ndarray:
    """z of every unit's elements, (N, K, *O, T pieces), 0 where they are padding."""
    z = x if center is None else x - center.reshape(-1, *(1,) * (x.ndim - 2))
    padded = p.window.pad(z)
    values = np.stack([padded[(..., *at)] for _, at in p.window.offsets()], axis=-1)
    values = values.reshape(len(x), x.shape[1] // p.pieces, p.pieces, *values.shape[2:])
    values = np.moveaxis(values, 2, -1)
    return values.reshape(*values.shape[:-2], p.pieces * values.shape[-2])


def _count(p: Any, dtype: Any) -> np.ndarray:
    """Real elements per unit, (*O)."""
    real = p.window.pad(np.ones(p.window.size, dtype))
    return p.pieces * sum(real[at] for _, at in p.window.offsets())


def _lp_parts(p: Any, x: np.ndarray, rho: np.ndarray, center: np.ndarray | None) -> Arrays:
    """z and log t of the elements, their t^(p-1), 0 where z is; p, m and s."""
    z, above = _elements(p, x, center), np.logaddexp(rho, 0).reshape(-1, *(1,) * (x.ndim - 2))  # p - 1, exactly
    most = np.abs(z).max(axis=-1)
    t = np.maximum(np.abs(z) / np.where(most == 0, 1, most)[..., None], np.finfo(x.dtype).tiny)
    slope = np.where(z == 0, 0, t ** above[..., None])
    mean = total(t * slope, -1) / _count(p, x.dtype)
    return z, np.log(t), slope, 1 + above, most, mean


def lp_unit_forward(p: Any, x: np.ndarray, rho: np.ndarray, center: np.ndarray | None) -> Arrays:
    _, _, _, norm, most, mean = _lp_parts(p, x, rho, center)
    return (np.where(np.isinf(most), most, most * mean ** (1 / norm)),)


def lp_unit_backward(
    p: Any, needs: tuple[bool, ...], dy: np.ndarray, x: np.ndarray, rho: np.ndarray, center: np.ndarray | None
) -> Arrays:
    z, log_t, slope, norm, most, mean = _lp_parts(p, x, rho, center)
    n, root, some = _count(p, x.dtype), mean ** (1 / norm), np.where(mean == 0, 1, mean)
    logs = total(np.exp(log_t) * slope * log_t, -1) / (n * some) - np.log(some) / norm
    to_rho = dy * (most * root / norm) * logs
    dz = (dy / n * (root / some))[..., None] * np.sign(z) * slope
    dz = np.moveaxis(dz.reshape(*dz.shape[:-1], dz.shape[-1] // p.pieces, p.pieces), -1, 2)
    dz = dz.reshape(*x.shape[:2], *dz.shape[3:])
    dx = np.zeros((*x.shape[:2], *p.window.padded))
    for t, at in p.window.offsets():
        dx[(..., *at)] += dz[..., t]
    dx, rest = dx[p.window.inside].astype(x.dtype), (0, *range(2, x.ndim))
    return (
        dx if needs[0] else None,
        total(to_rho, rest) * np.exp(-np.logaddexp(-rho, 0)) if needs[1] else None,
        -total(dx, rest) if needs[2] else None,
    )


def lp_unit_domain(draw: domain.Draw) -> Case:
    shape, attrs = _domain(draw)
    x = draw.uniform(*shape) + 0.5  # away from the centers, where z^(p - 1) is steep
    x = np.where(draw.uniform(*shape) < 0.5, -x, x)
    center = draw.choice([0.2 * (2 * draw.uniform(shape[1]) - 1), None])
    return Case((x, 2 * draw.normal(shape[1] // attrs["pieces"]), center), attrs)


lp_unit = register(
    Op(
        "lp_unit", lp_unit_rule, lp_unit_forward, lp_unit_backward, {"x": MAP, "rho": DENSE, "center": DENSE},
        ("x", "rho", "center"), lp_unit_domain, _flops,
    )
)  # fmt: skip
