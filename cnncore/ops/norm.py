"""Normalisation by local energy: lrn across maps, lrn_within a map. Kernels: csrc/norm.c, norm_cuda.py.

Both divide by a power of a sum of squares over a box of neighbours; they differ in the axes that the box spans. A box
is given by how far it reaches `before` and `after` an element along (C, D, H, W); at the edges it is cut off.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import ShapeError
from . import domain, geometry
from .op import Op
from .records import register
from .roles import MAP
from .spec import Arrays, Case, Spec

LEAST_K = float(np.finfo(np.float32).tiny)  # so that no divisor is 0, in either dtype


def box_sum(a: np.ndarray, before: tuple[int, ...], after: tuple[int, ...]) -> np.ndarray:
    """The sum over every element's box, in float64. a is (N, C, *S); the reach is along (C, D, H, W)."""
    missing, dtype = 5 - a.ndim, a.dtype
    for axis, (low, high) in enumerate(zip(before[:1] + before[1 + missing :], after[:1] + after[1 + missing :],
                                           strict=True), 1):  # fmt: skip
        count, total, ahead = a.shape[axis], np.zeros(a.shape), (slice(None),) * axis
        for shift in range(-low, high + 1):
            to, source = max(0, -shift), max(0, shift)
            length = count - abs(shift)
            total[(*ahead, slice(to, to + length))] += a[(*ahead, slice(source, source + length))]
        a = total
    return a.astype(dtype)


def _reach(size: tuple[int, ...], count: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(before, after) of windows of `size`, centred as in ONNX: an even window reaches one farther behind. No farther
    than the array goes."""
    most = [max(n - 1, 0) for n in count]
    return (
        tuple(min((s - 1) // 2, m) for s, m in zip(size, most, strict=True)),
        tuple(min(s // 2, m) for s, m in zip(size, most, strict=True)),
    )


def _spec(
    op: str, x: Any, size: tuple[int, ...], alpha: float, beta: float, k: float, alpha_over_size: bool, taps: int
) -> Spec:
    geometry.at_least(op, 0, alpha=alpha, beta=beta)
    geometry.at_least(op, LEAST_K, k=k)
    over = taps if geometry.flag(op, "alpha_over_size", alpha_over_size) else 1
    missing = (1,) * (5 - len(x.shape))
    before, after = _reach((size[0], *missing, *size[1:]), (x.shape[1], *missing, *x.shape[2:]))
    params = SimpleNamespace(before=before, after=after, alpha=float(alpha) / over, beta=float(beta), k=float(k))
    return Spec(params, {"y": (tuple(x.shape), None)})


def lrn_rule(
    x: Any, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, alpha_over_size: bool = False
) -> Spec:
    """Local response normalisation across maps: each element is divided by the energy of its neighbours in other maps.

    y_c = x_c / d_c^beta,   d_c = k + alpha sum over j in R_c of x_j^2,
    R_c the maps c - floor((size - 1)/2) ... c + ceil((size - 1)/2) that exist.
    Gradient: dx_i = dy_i / d_i^beta - 2 alpha beta x_i (sum over all c with i in R_c of dy_c x_c / d_c^(beta + 1)).
    (x_i stands in its own numerator, and in the divisor of every map whose window holds it.)

    The defaults are Krizhevsky's. With `alpha_over_size`, alpha is divided by `size` (also where the window is cut off
    at the first and last maps), as in ONNX, Caffe and PyTorch.

    Shapes: x (N, C, *S), rank 0 to 3, y the same. `size` may exceed C: the window then holds all maps.
    Edges: alpha = 0 gives x / k^beta. Squares are taken in x's dtype: where d overflows (|x| above about 1e19 in
    float32) y is 0. An infinite element gives NaN at its own place and 0 in the maps whose window holds it.
    Raises ShapeError, DTypeError, CnncoreError (alpha or beta negative, k not positive).
    Source: the paper's 1.3; Krizhevsky et al. 2012, section 3.3; ONNX LRN.
    """
    if len(x.shape) < 2:
        raise ShapeError(f"lrn: x must be (N, C, *S), got shape {tuple(x.shape)}")
    size = geometry.integer("lrn", "size", size, 1)
    sizes = (size, *(1,) * (len(x.shape) - 2))
    return _spec("lrn", x, sizes, alpha, beta, k, alpha_over_size, size)


def lrn_within_rule(
    x: Any, *, kernel: Any, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, alpha_over_size: bool = False
) -> Spec:
    """Local response normalisation within maps: each element is divided by the energy around it in its own map.

    y_s = x_s / d_s^beta,   d_s = k + alpha sum over t in R_s of x_t^2,
    R_s the window around s: along an axis s - floor((kernel - 1)/2) ... s + ceil((kernel - 1)/2), cut off at borders.
    Gradient: dx_t = dy_t / d_t^beta - 2 alpha beta x_t (sum over all s with t in R_s of dy_s x_s / d_s^(beta + 1)).

    With `alpha_over_size`, alpha is divided by the elements of a whole window (also at borders), as in Caffe.

    Shapes: x (N, C, *S), rank 1 to 3, y the same. `kernel`: an int or one per axis; it may exceed the image.
    Edges: as for `lrn`.
    Raises ShapeError, DTypeError, CnncoreError (alpha or beta negative, k not positive).
    Source: the paper's 1.3; Krizhevsky's cuda-convnet (`rnorm`), Caffe (`WITHIN_CHANNEL`).
    """
    if len(x.shape) < 3:
        raise ShapeError(f"lrn_within: x must be (N, C, *S) with 1 to 3 spatial axes, got shape {tuple(x.shape)}")
    sizes = geometry.per_axis("lrn_within", "kernel", kernel, len(x.shape) - 2, 1)
    taps = math.prod(sizes)
    return _spec("lrn_within", x, (1, *sizes), alpha, beta, k, alpha_over_size, taps)


def _divisor(p: Any, x: np.ndarray) -> np.ndarray:
    return p.k + p.alpha * box_sum(x * x, p.before, p.after)


def lrn_forward(p: Any, x: np.ndarray) -> Arrays:
    return (x / _divisor(p, x) ** p.beta,)


def lrn_backward(p: Any, needs: tuple[bool, ...], dy: np.ndarray, x: np.ndarray) -> Arrays:
    if not needs[0]:
        return (None,)
    d = _divisor(p, x)
    direct = dy / d**p.beta
    # The elements whose window holds i are those that i's window would hold, were it turned around.
    shared = box_sum(direct * x / d, p.after, p.before)
    return (direct - 2 * p.alpha * p.beta * x * shared,)


def _rates(draw: domain.Draw) -> dict[str, Any]:
    return {
        "alpha": draw.choice([0.3, 1e-4, 0.0, 2.0]),
        "beta": draw.choice([0.75, 0.5, 1.0, 0.6, 0.0, 2.3]),
        "k": draw.choice([2.0, 1.0, 0.1]),
        "alpha_over_size": draw.choice([False, True]),
    }


def lrn_domain(draw: domain.Draw) -> Case:
    shape = tuple(draw.integer(1, 4) for _ in range(draw.choice([2, 1, 0, 3])))
    x = draw.normal(draw.integer(1, 3), draw.integer(1, 7), *shape)
    return Case((x,), {"size": draw.integer(1, 8), **_rates(draw)})


def lrn_within_domain(draw: domain.Draw) -> Case:
    rank = draw.choice([2, 1, 3])
    shape = tuple(draw.integer(1, {1: 9, 2: 6, 3: 4}[rank]) for _ in range(rank))
    x = draw.normal(draw.integer(1, 2), draw.integer(1, 3), *shape)
    kernel = draw.choice([draw.integer(1, 5), tuple(draw.integer(1, 5) for _ in range(rank))])
    return Case((x,), {"kernel": kernel, **_rates(draw)})


def _flops(spec: Spec, arrays: Arrays) -> tuple[int, int]:
    """Per element a square, the sums along every axis of the box (3 each, however wide), and the power."""
    count = geometry.elements("lrn", spec.results["y"][0])
    axes = sum(b + a > 0 for b, a in zip(spec.params.before, spec.params.after, strict=True))
    return count * (3 * axes + 6), count * (6 * axes + 14)


def _register(name: str, rule: Any, draw: Any) -> Any:
    return register(Op(name, rule, lrn_forward, lrn_backward, {"x": MAP}, ("x",), draw, _flops))


lrn = _register("lrn", lrn_rule, lrn_domain)
lrn_within = _register("lrn_within", lrn_within_rule, lrn_within_domain)
