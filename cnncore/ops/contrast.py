"""Local contrast normalisation: subtractive_norm, then divisive_norm. Kernels: csrc/contrast.c, contrast_cuda.py.

Both rest on one local average over all maps of an image and a Gaussian window in space, `blur` of the maps' mean. The
Gaussian is separable, and so is its renormalisation at borders: the sum over a box of real elements is a product.
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
from .sums import mean, total


def gaussian(before: int, after: int, sigma: float) -> list[float]:
    """exp(-t^2 / 2 sigma^2) for the distances t = -before ... after."""
    return [math.exp(-0.5 * (t / sigma) ** 2) for t in range(-before, after + 1)]


def slide(a: np.ndarray, axis: int, weights: list[float], before: int) -> np.ndarray:
    """y_s = sum over i of weights[i] a[s - before + i] along one axis, over what there is of a."""
    y, ahead, count = np.zeros(a.shape), (slice(None),) * axis, a.shape[axis]
    for i, weight in enumerate(weights):
        low, high = max(0, before - i), min(count, count + before - i)
        y[(*ahead, slice(low, high))] += weight * a[(*ahead, slice(low - before + i, high - before + i))]
    return y


def blur(a: np.ndarray, p: Any, turned: bool = False) -> np.ndarray:
    """The Gaussian mean of a (N, *S) around every element, over what is real; `turned`: its transpose. In float64."""
    missing = 4 - a.ndim
    for axis, (before, after, sigma) in enumerate(list(zip(p.before, p.after, p.sigma, strict=True))[missing:], 1):
        weights = gaussian(before, after, sigma)
        whole = slide(np.ones(a.shape[axis]), 0, weights, before)
        whole = whole.reshape(-1, *(1,) * (a.ndim - 1 - axis))
        a = slide(a / whole, axis, weights[::-1], after) if turned else slide(a, axis, weights, before) / whole
    return a


def _params(op: str, x: Any, kernel: Any, sigma: float | None) -> SimpleNamespace:
    if not 3 <= len(x.shape) <= 5:
        raise ShapeError(f"{op}: x must be (N, C, *S) with 1 to 3 spatial axes, got shape {tuple(x.shape)}")
    sizes = geometry.per_axis(op, "kernel", kernel, len(x.shape) - 2, 1)
    if sigma is not None:
        geometry.at_least(op, 1e-3, sigma=sigma)
    missing, most = (0,) * (5 - len(x.shape)), [max(n - 1, 0) for n in x.shape[2:]]
    return SimpleNamespace(
        before=missing + tuple(min((k - 1) // 2, m) for k, m in zip(sizes, most, strict=True)),
        after=missing + tuple(min(k // 2, m) for k, m in zip(sizes, most, strict=True)),
        sigma=(1.0,) * len(missing) + tuple(k / 4 if sigma is None else float(sigma) for k in sizes),
    )


# --- subtractive ---


def subtractive_norm_rule(x: Any, *, kernel: Any = 9, sigma: float | None = None) -> Spec:
    """Subtractive normalisation: each element less the Gaussian mean of its surroundings in all maps.

    y_cs = x_cs - m_s,   m_s = (1/C) sum over maps j and t in R_s of w_st x_jt,
    w_st = G(t - s) / sum over R_s of G,   G(t) = exp(-|t|^2 / 2 sigma^2), R_s the real elements of the window around s.
    Gradient: dx_jt = dy_jt - (1/C) sum over c and all s with t in R_s of w_st dy_cs.

    Shapes: x (N, C, *S), rank 1 to 3, y the same. `kernel`: the window, an int or one per axis; along an axis it holds
    s - floor((kernel - 1)/2) ... s + ceil((kernel - 1)/2). `sigma` in elements, the same for every axis; by default a
    quarter of the axis's kernel.
    Edges: at borders the weights are those of the real elements, and sum to 1; so an image of one value gives 0
    everywhere, exactly and whatever the value: x and m are taken less the image's first element, if that is finite.
    Raises ShapeError, DTypeError, CnncoreError (sigma below 0.001).
    Source: the paper's 1.3; Jarrett et al. 2009, section 2.2.
    """
    return Spec(_params("subtractive_norm", x, kernel, sigma), {"y": (tuple(x.shape), None)})


def subtractive_norm_forward(p: Any, x: np.ndarray) -> Arrays:
    first = x[(slice(None), *(slice(1),) * (x.ndim - 1))]
    x = x - np.where(np.isfinite(first), first, 0)
    return ((x - blur(x.mean(axis=1, dtype=np.float64), p)[:, None]).astype(x.dtype),)


def subtractive_norm_backward(p: Any, needs: tuple[bool, ...], dy: np.ndarray) -> Arrays:
    if not needs[0]:
        return (None,)
    return ((dy - blur(dy.mean(axis=1, dtype=np.float64), p, turned=True)[:, None]).astype(dy.dtype),)


# --- divisive ---

RESPONSE, MEAN, FLOOR = 0, 1, 2  # what a divisor is: `winner`


def divisive_norm_rule(x: Any, *, kernel: Any = 9, sigma: float | None = None, floor: float = 1e-4) -> Spec:
    """Divisive normalisation: each element over the local deviation, but never over less than the image's mean one.

    y_cs = x_cs / d_s,   d_s = max(r_s, mean of r over the image, floor),
    r_s = sqrt((1/C) sum over maps j and t in R_s of w_st x_jt^2), w and R as for `subtractive_norm`.
    Gradient: with u_s = -(sum over c of dy_cs x_cs) / d_s^2, e_s = [d_s is r_s] u_s + (1/P) sum of u over those s where
    d_s is the mean (P positions of the image):  dx_jt = dy_jt / d_t + (x_jt / C) sum over s of w_st e_s / r_s.

    Shapes: x (N, C, *S), rank 1 to 3, y the same. `kernel` and `sigma` as for `subtractive_norm`. Kept for backward,
    all (N, 1, *S): `local` is r, `divisor` is d, and `winner` says what d_s is: 0 for r_s, 1 the mean, 2 the floor.
    Edges: an image of zeros gives 0, and dy / floor as gradient. `floor` is in units of x: it should be small beside
    the images' contrasts. Where r_s = 0 it passes no gradient. Of equals the floor is d_s before the mean, and the mean
    before r_s; equal are two that lie within rounding (64 eps of the dtype), as all r_s of an image whose elements have
    one magnitude do. Squares are taken in x's dtype: where they overflow (|x| above about 1e19 in
    float32) y is 0 in the whole image. Inf or NaN makes y 0 or NaN there, and the gradient NaN.
    Raises ShapeError, DTypeError, CnncoreError (sigma below 0.001, floor not positive).
    Source: the paper's 1.3; Jarrett et al. 2009, section 2.2.
    """
    params = _params("divisive_norm", x, kernel, sigma)
    geometry.at_least("divisive_norm", float(np.finfo(np.float32).tiny), floor=floor)
    params.floor = float(floor)
    local = (x.shape[0], 1, *x.shape[2:])
    kept = {"local": (local, None), "divisor": (local, None), "winner": (local, np.int32)}
    return Spec(params, {"y": (tuple(x.shape), None), **kept})


def _mean(r: np.ndarray) -> np.ndarray:
    """The mean of every image, (N, 1, ...)."""
    return mean(r, tuple(range(1, r.ndim)), keepdims=True) if r.size else r


def divisive_norm_forward(p: Any, x: np.ndarray) -> Arrays:
    r = np.sqrt(blur((x * x).mean(axis=1, dtype=np.float64), p)).astype(x.dtype)
    average, equal = _mean(r), 1 + 64 * np.finfo(x.dtype).eps
    below = np.where(average > equal * p.floor, MEAN, FLOOR)
    winner = np.where(r > equal * np.maximum(average, p.floor), RESPONSE, below)
    d = np.maximum(np.maximum(r, average), p.floor)
    return x / d[:, None], r[:, None], d[:, None], winner[:, None].astype(np.int32)


def divisive_norm_backward(
    p: Any, needs: tuple[bool, ...], dy: np.ndarray,
    x: np.ndarray, local: np.ndarray, divisor: np.ndarray, winner: np.ndarray,
) -> Arrays:  # fmt: skip
    if not needs[0]:
        return (None,)
    r, d, winner = local[:, 0], divisor[:, 0], winner[:, 0]
    u = -total(dy * x, 1) / d / d
    e = np.where(winner == RESPONSE, u, 0) + _mean(np.where(winner == MEAN, u, 0))
    e = np.divide(e, r, out=np.zeros_like(r), where=r != 0)
    return ((dy / divisor + x * (blur(e, p, turned=True) / x.shape[1])[:, None]).astype(x.dtype),)


# --- problems ---


def _maps(draw: domain.Draw) -> tuple[tuple[int, ...], dict[str, Any]]:
    rank = draw.choice([2, 1, 3])
    size = tuple(draw.integer(2, {1: 9, 2: 5, 3: 3}[rank]) for _ in range(rank))
    kernel = draw.choice([draw.integer(1, 6), tuple(draw.integer(1, 6) for _ in range(rank))])
    return (draw.integer(1, 2), draw.integer(1, 3), *size), {"kernel": kernel, "sigma": draw.choice([None, 0.7, 2.0])}


def subtractive_norm_domain(draw: domain.Draw) -> Case:
    shape, attrs = _maps(draw)
    return Case((draw.normal(*shape),), attrs)


def divisive_norm_domain(draw: domain.Draw) -> Case:
    """The kinks: where r_s, the mean and the floor are equal. Where windows are wide, every r is near the mean; so of
    many images the one farthest from a kink. A move of x by g moves r, and so its mean, by at most g. (Distinct values
    alone always have the same mean magnitude, and may have one that is equal to it.)"""
    shape, attrs = _maps(draw)
    attrs["floor"] = draw.choice([1e-4, 1.0])
    params = divisive_norm_rule(np.empty(shape), **attrs).params
    farthest = Case((), attrs, 0)
    for _ in range(20):
        x, gap = draw.distinct(*shape)
        x, gap = x + 0.5 * gap * (draw.uniform(*shape) - 0.5), 0.5 * gap
        r = divisive_norm_forward(params, x)[1][:, 0]
        mean, floor = _mean(r), params.floor
        gap = min(gap, *(0.4 * float(np.min(np.abs(a))) for a in (r - mean, r - floor, mean - floor)))
        if gap > farthest.gap:
            farthest = Case((x,), attrs, gap)
    return farthest


def _flops(spec: Spec, arrays: Arrays) -> tuple[int, int]:
    """A few operations per element; those on the averaged map are fewer by the number of maps."""
    shape, p = spec.results["y"][0], spec.params
    taps = sum(b + a + 1 for b, a in zip(p.before, p.after, strict=True))
    count, plane = math.prod(shape), shape[0] * math.prod(shape[2:])
    return 3 * count + 2 * taps * plane, 5 * count + 2 * taps * plane


subtractive_norm = register(
    Op(
        "subtractive_norm", subtractive_norm_rule, subtractive_norm_forward, subtractive_norm_backward, {"x": MAP}, (),
        subtractive_norm_domain, _flops,
    )
)  # fmt: skip
divisive_norm = register(
    Op(
        "divisive_norm", divisive_norm_rule, divisive_norm_forward, divisive_norm_backward, {"x": MAP},
        ("x", "local", "divisor", "winner"), divisive_norm_domain, _flops,
    )
)  # fmt: skip
