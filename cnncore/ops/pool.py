"""Pooling: one window walk and a table of variants. Kernels: csrc/pool.c, pool_cuda.py.

A variant is two functions over all windows at once, and a docstring:

    reduce(v, p)             -> (y, *extras)   y and the extras are (N, C, *O)
    gradient(v, p, dy, *saved) -> dvalues      (N, C, *O, T): the gradient to every element of every window

The walk gathers the windows, registers the op with the full geometry, scatters the gradients back to x, and hides
padding from the variant. To add one, write the two functions and one `variant(...)` entry below.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import ShapeError
from . import domain, geometry
from .op import MAP, Arrays, Case, Op, Spec, register


@dataclass(frozen=True)
class Windows:
    """All windows of one call. T = elements of a window, in row-major order."""

    values: np.ndarray  # (N, C, *O, T), `fill` where not real; empty in a backward that does not save x
    real: np.ndarray  # (*O, T) bool: an element of x
    padding: np.ndarray  # (*O, T) bool: zero padding (what ceil_mode lets hang over is neither)

    @property
    def n(self) -> np.ndarray:
        """Real elements per window, (*O)."""
        return self.real.sum(axis=-1)


def _gather(window: geometry.Window, padded: np.ndarray) -> np.ndarray:
    return np.stack([padded[(..., *at)] for _, at in window.offsets()], axis=-1)


def _windows(window: geometry.Window, x: np.ndarray | None, fill: float) -> Windows:
    real = window.pad(np.ones(window.size, bool), False)
    asked = np.zeros(window.padded, bool)
    asked[tuple(slice(0, b + n + e) for b, n, e in zip(window.begin, window.size, window.end, strict=True))] = True
    values = np.empty(0) if x is None else _gather(window, window.pad(x, fill))
    return Windows(values, _gather(window, real), _gather(window, asked & ~real))


GEOMETRY = """
    Shapes: x (N, C, *S) to y (N, C, *O), rank 1 to 3. `kernel`, `stride` (default: kernel), `dilation`: an int or one
    per axis; `padding`: an int, one per axis or a (begin, end) pair per axis. `ceil_mode` rounds the output size up.
    Raises ShapeError (also where a window would hold padding alone), DTypeError."""


def variant(
    name: str,
    reduce: Callable[..., Arrays],
    gradient: Callable[..., np.ndarray],
    *,
    doc: str,
    attrs: dict[str, Any] | None = None,
    fill: float = 0.0,
    extras: dict[str, Any] | None = None,
    saved: tuple[str, ...] = (),
) -> Callable[..., Any]:
    """Register a pooling op.

    attrs: the variant's own keyword attributes and their defaults, read as `p.<attribute>`.
    fill: what `reduce` sees where a window has no real element.
    extras: name -> dtype of further (N, C, *O) results, kept for `gradient`.
    saved: what `gradient` reads: "x" (then `v.values` is there again), "y", or extras.
    """
    own, kept = attrs or {}, extras or {}

    def rule(
        x: Any, *, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
        **attributes: Any,
    ) -> Spec:  # fmt: skip
        unknown = set(attributes) - set(own)
        if unknown:
            raise TypeError(f"{name}() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        for attribute, default in own.items():
            if isinstance(default, bool):
                attributes[attribute] = geometry.flag(name, attribute, attributes.get(attribute, default))
        window = _resolve(name, x, kernel, kernel if stride is None else stride, padding, dilation, ceil_mode)
        shape = (*x.shape[:2], *window.out)
        results = {"y": (shape, None), **{extra: (shape, kind) for extra, kind in kept.items()}}
        return Spec(SimpleNamespace(window=window, **{**own, **attributes}), results)

    rule.__doc__ = doc.rstrip() + "\n" + GEOMETRY
    signature = inspect.signature(rule)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    extra = [inspect.Parameter(a, inspect.Parameter.KEYWORD_ONLY, default=value) for a, value in own.items()]
    rule.__signature__ = signature.replace(parameters=named + extra)  # type: ignore[attr-defined]

    return register(
        Op(
            name=name,
            rule=rule,
            forward=functools.partial(_forward, reduce, fill),
            backward=functools.partial(_backward, gradient, fill, saved),
            arrays={"x": MAP},
            saved=saved,
            domain=functools.partial(_domain, own),
            flops=_flops,
        )
    )


def _resolve(name: str, x: Any, *geometry_: Any) -> geometry.Window:
    if not 3 <= len(x.shape) <= 5:
        raise ShapeError(f"{name}: x must be (N, C, *S) with 1 to 3 spatial axes, got shape {tuple(x.shape)}")
    window = geometry.resolve(name, x.shape[2:], *geometry_)
    geometry.reject_padding_only(name, window)
    return window


def _forward(reduce: Callable[..., Arrays], fill: float, p: Any, x: np.ndarray) -> Arrays:
    return reduce(_windows(p.window, x, fill), p)


def _backward(
    gradient: Callable[..., np.ndarray], fill: float, saved: tuple[str, ...],
    p: Any, needs: tuple[bool, ...], dy: np.ndarray, *kept: np.ndarray,
) -> Arrays:  # fmt: skip
    if not needs[0]:
        return (None,)
    by_name = dict(zip(saved, kept, strict=True))
    windows = _windows(p.window, by_name.pop("x", None), fill)
    dvalues = gradient(windows, p, dy, *by_name.values())
    dx = np.zeros((*dy.shape[:2], *p.window.padded), dy.dtype)
    for t, at in p.window.offsets():
        dx[(..., *at)] += np.where(windows.real[..., t], dvalues[..., t], 0)
    return (dx[p.window.inside],)


def _domain(own: dict[str, Any], draw: domain.Draw) -> Case:
    size, attrs = domain.window(draw)
    x, gap = draw.distinct(draw.integer(1, 2), draw.integer(1, 3), *size)
    chosen = {a: draw.choice([True, False]) for a, value in own.items() if isinstance(value, bool)}
    return Case((x,), {**attrs, "ceil_mode": draw.choice([False, True]), **chosen}, gap)


def _flops(spec: Spec, arrays: Arrays) -> tuple[int, int]:
    count = math.prod(spec.results["y"][0]) * spec.params.window.taps
    return count, count


# --- the table ---------------------------------------------------------------------------------------------------


def max_reduce(v: Windows, p: Any) -> Arrays:
    # np.argmax takes the first NaN for the largest, and the first of equals; a real -inf must beat the padding.
    first_real = np.argmax(v.real, axis=-1)
    winner = np.argmax(v.values, axis=-1)
    winner = np.where(np.take_along_axis(np.broadcast_to(v.real, v.values.shape), winner[..., None], -1)[..., 0],
                      winner, first_real)  # fmt: skip
    y = np.take_along_axis(v.values, winner[..., None], axis=-1)[..., 0]
    return y, winner.astype(np.int32)


def max_gradient(v: Windows, p: Any, dy: np.ndarray, winner: np.ndarray) -> np.ndarray:
    return np.where(np.arange(v.real.shape[-1]) == winner[..., None], dy[..., None], 0)


max_pool = variant(
    "max_pool",
    max_reduce,
    max_gradient,
    fill=-math.inf,
    extras={"winner": np.int32},
    saved=("winner",),
    doc="""Max pooling: the largest element of every window.

    y = max over the window R of x.   Gradient: dy to the winner, 0 to the others.

    Edges: of equals the first in row-major order wins, and alone gets the gradient. A NaN in the window gives NaN (the
    first NaN wins). Padding never wins, not even against -inf.
    `winner`, kept for backward, is the winner's number in the window, row-major.
    Source: the paper's 2.2.""",
)


def avg_divisor(v: Windows, p: Any) -> np.ndarray:
    return v.n + v.padding.sum(axis=-1) if p.count_include_pad else v.n


def avg_reduce(v: Windows, p: Any) -> Arrays:
    return ((v.values.sum(axis=-1) / avg_divisor(v, p)).astype(v.values.dtype),)


def avg_gradient(v: Windows, p: Any, dy: np.ndarray) -> np.ndarray:
    share = (dy / avg_divisor(v, p)).astype(dy.dtype)
    return np.broadcast_to(share[..., None], (*dy.shape, v.real.shape[-1]))


avg_pool = variant(
    "avg_pool",
    avg_reduce,
    avg_gradient,
    attrs={"count_include_pad": False},
    doc="""Average pooling: the mean of every window.

    y = (sum over R of x) / n, n the number of real elements in R.   Gradient: dy / n to each.

    Edges: with `count_include_pad` zero padding counts in n; what `ceil_mode` lets a window hang over never does. NaN
    and Inf propagate.
    Source: the paper's 2.2.""",
)
