"""The window walk: what all pooling ops share. It gathers the windows of x, hides padding from the variant, and adds
the gradients of the windows up to dx. `variant` makes two ops of a variant: one with kernel, stride, padding and
dilation, and its global form, whose only window is the whole map. The variants stand in pool.py; csrc/pool_walk.h
is the walk in C.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import CnncoreError, ShapeError
from . import domain, geometry, scalars
from .op import Op
from .records import register
from .roles import MAP, RANDOM, Role
from .spec import Arrays, Case, Spec


@dataclass(frozen=True)
class Windows:
    """All windows of one call. A window has T elements, in row-major order.

    An element is real (it belongs to x), or zero padding, or neither: with `ceil_mode` the last window may reach beyond
    the padding.
    """

    values: np.ndarray  # (N, C, *O, T): elements of x, and `fill` where none is real; empty if backward does not save x
    real: np.ndarray  # (*O, T) bool
    padding: np.ndarray  # (*O, T) bool

    @property
    def n(self) -> np.ndarray:
        """How many elements of each window are real, (*O)."""
        return self.real.sum(axis=-1)


def _gather(window: geometry.Window, padded: np.ndarray) -> np.ndarray:
    return np.stack([padded[(..., *at)] for _, at in window.offsets()], axis=-1)


def _windows(window: geometry.Window, x: np.ndarray | None, fill: float) -> Windows:
    real = window.pad(np.ones(window.size, bool), False)
    asked = np.zeros(window.padded, bool)
    asked[tuple(slice(0, b + n + e) for b, n, e in zip(window.begin, window.size, window.end, strict=True))] = True
    values = np.empty(0) if x is None else _gather(window, window.pad(x, fill))
    return Windows(values, _gather(window, real), _gather(window, asked & ~real))


@dataclass(frozen=True)
class Number:
    """A numeric attribute of a variant."""

    default: float
    least: float  # the smallest value that is allowed
    drawn: tuple[float, ...]  # the values that the op's domain chooses from
    most: float = sys.float_info.max  # the largest value that is allowed

    def check(self, op: str, name: str, value: Any) -> float:
        number = scalars.number(value)
        large = number is not None and number > sys.float_info.max and number != math.inf  # an int that no float holds
        if number is None or large or not self.least <= number <= self.most:
            ends = f"from {self.least:g} to inf" if math.isinf(self.most) else f"of at least {self.least:g}, finite"
            raise CnncoreError(f"{op}: {name} must be a number {ends}, got {value!r}")
        return float(number)


GEOMETRY = """
    Shapes: x (N, C, *S) to y (N, C, *O), rank 1 to 3. `kernel`, `stride` (default: kernel), `dilation`: an int or one
    per axis; `padding`: an int, one per axis or a (begin, end) pair per axis. `ceil_mode` rounds the output size up.
    Raises ShapeError (also where a window would hold padding alone), DTypeError."""


GLOBAL = """
    Shapes: x (N, C, *S) to y (N, C, 1, ...), rank 1 to 3, any S. Raises ShapeError, DTypeError."""


def variant(
    name: str,
    reduce: Callable[..., Arrays],
    gradient: Callable[..., np.ndarray],
    *,
    doc: str,
    attrs: dict[str, bool | Number] | None = None,
    fill: float = 0.0,
    draws: bool = False,
    extras: dict[str, Any] | None = None,
    unused: Callable[[Any], bool] = lambda p: False,
    saved: tuple[str, ...] = (),
    local: tuple[str, ...] = (),
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Register a pooling op and its global form, `global_<name>`, whose window is the whole map. Returns both.

    attrs: the variant's own keyword attributes. A bool is an attribute's default; a Number says more. `reduce` and
        `gradient` read an attribute as `p.<attribute>`.
    fill: the value that `reduce` sees at elements of a window that are not real.
    draws: whether the op takes uniforms u, of y's shape, as its second argument.
    extras: name -> dtype of further results (N, C, *O), which are kept for `gradient`. Where `unused(p)` is true these
        results are empty arrays.
    saved: what `gradient` reads: "x", "y", or names of extras. If "x" is saved, `v.values` is filled in backward too.
    local: the attributes that the global form lacks.
    """
    own, kept = attrs or {}, extras or {}
    every = {a: kind for a, kind in own.items() if a not in local}
    arrays = {"x": MAP, "u": RANDOM} if draws else {"x": MAP}

    def specify(op: str, x: Any, geometry_: tuple[Any, ...], given: dict[str, Any], known: dict[str, Any]) -> Spec:
        unknown = set(given) - set(known)
        if unknown:
            raise TypeError(f"{op}() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        p = SimpleNamespace(
            window=_resolve(op, x, *geometry_), **{a: _attribute(op, a, kind, given) for a, kind in own.items()}
        )
        shape = (*x.shape[:2], *p.window.out)
        extra_shape = (0,) if unused(p) else shape
        results = {"y": (shape, None), **{extra: (extra_shape, kind) for extra, kind in kept.items()}}
        return Spec(p, results, random=shape if draws else None)

    def rule(
        x: Any, *u: Any, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, **attributes: Any,
    ) -> Spec:  # fmt: skip
        stride = kernel if stride is None else stride
        return specify(name, x, (kernel, stride, padding, dilation, ceil_mode), attributes, own)

    def global_rule(x: Any, *u: Any, **attributes: Any) -> Spec:
        return specify(f"global_{name}", x, (tuple(x.shape[2:]), 1), attributes, every)

    summary, rest = doc.split("\n", 1)
    about = f"`{name}` over all of S, whatever its size: {summary[0].lower()}{summary[1:]}\n{rest}"
    _document(rule, reduce, arrays, own, doc + "\n" + GEOMETRY)
    _document(global_rule, reduce, arrays, every, about + "\n" + GLOBAL)

    def record(of: str, checks: Callable[..., Spec], draw: Callable[..., Case], kernels_of: str) -> Op:
        return Op(
            name=of,
            rule=checks,
            forward=functools.partial(_forward, reduce, fill),
            backward=functools.partial(_backward, gradient, fill, saved),
            arrays=arrays,
            saved=saved,
            domain=draw,
            flops=_flops,
            kernels_of=kernels_of,
        )

    return (
        register(record(name, rule, functools.partial(_domain, own, draws), "")),
        register(record(f"global_{name}", global_rule, functools.partial(_global_domain, every, draws), name)),
    )


def _document(
    rule: Any, reduce: Callable[..., Arrays], arrays: dict[str, Role], own: dict[str, bool | Number], doc: str
) -> None:
    """Give a rule its docstring, the variant's module, and the signature that users see: arrays, geometry, and the
    variant's own attributes."""
    rule.__doc__, rule.__module__ = doc, reduce.__module__
    signature = inspect.signature(rule)
    first = [inspect.Parameter(a, inspect.Parameter.POSITIONAL_OR_KEYWORD) for a in arrays]
    named = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    extra = [inspect.Parameter(a, inspect.Parameter.KEYWORD_ONLY, default=_default(kind)) for a, kind in own.items()]
    rule.__signature__ = signature.replace(parameters=first + named + extra)


def _default(kind: bool | Number) -> Any:
    return kind.default if isinstance(kind, Number) else kind


def _attribute(op: str, name: str, kind: bool | Number, given: dict[str, Any]) -> Any:
    value = given.get(name, _default(kind))
    return kind.check(op, name, value) if isinstance(kind, Number) else geometry.flag(op, name, value)


def _resolve(name: str, x: Any, *geometry_: Any) -> geometry.Window:
    if not 3 <= len(x.shape) <= 5:
        raise ShapeError(f"{name}: x must be (N, C, *S) with 1 to 3 spatial axes, got shape {tuple(x.shape)}")
    window = geometry.resolve(name, x.shape[2:], *geometry_)
    geometry.reject_padding_only(name, window)
    return window


def _forward(reduce: Callable[..., Arrays], fill: float, p: Any, x: np.ndarray, *u: np.ndarray) -> Arrays:
    return reduce(_windows(p.window, x, fill), p, *u)


def _backward(
    gradient: Callable[..., np.ndarray], fill: float, saved: tuple[str, ...],
    p: Any, needs: tuple[bool, ...], dy: np.ndarray, *kept: np.ndarray,
) -> Arrays:  # fmt: skip
    if not needs[0]:
        return (None,) * len(needs)
    by_name = dict(zip(saved, kept, strict=True))
    windows = _windows(p.window, by_name.pop("x", None), fill)
    dvalues = gradient(windows, p, dy, *by_name.values())
    dx = np.zeros((*dy.shape[:2], *p.window.padded))
    for t, at in p.window.offsets():
        dx[(..., *at)] += np.where(windows.real[..., t], dvalues[..., t], 0)
    return (dx[p.window.inside].astype(dy.dtype), *(None,) * (len(needs) - 1))


def _drawn(own: dict[str, bool | Number], draw: domain.Draw) -> dict[str, Any]:
    return {a: draw.choice(kind.drawn if isinstance(kind, Number) else (True, False)) for a, kind in own.items()}


def _domain(own: dict[str, bool | Number], draws: bool, draw: domain.Draw) -> Case:
    size, attrs = domain.window(draw)
    x, gap = draw.distinct(draw.integer(1, 2), draw.integer(1, 3), *size)
    attrs["ceil_mode"] = draw.choice([False, True])
    out = geometry.resolve("domain", size, **attrs).out
    attrs |= _drawn(own, draw)
    return Case((x, draw.uniform(*x.shape[:2], *out)), attrs) if draws else Case((x,), attrs, gap)


def _global_domain(own: dict[str, bool | Number], draws: bool, draw: domain.Draw) -> Case:
    rank = draw.choice([2, 1, 3])
    x, gap = draw.distinct(
        draw.integer(1, 2), draw.integer(1, 3), *(draw.integer(1, 8 - 2 * rank) for _ in range(rank))
    )
    attrs = _drawn(own, draw)
    return Case((x, draw.uniform(*x.shape[:2], *(1,) * rank)), attrs) if draws else Case((x,), attrs, gap)


def _flops(spec: Spec, arrays: Arrays) -> tuple[int, int]:
    count = math.prod(spec.results["y"][0]) * spec.params.window.taps
    return count, count
