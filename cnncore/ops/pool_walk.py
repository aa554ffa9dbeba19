"""The window walk that all pooling ops share. The table of pooling ops: pool.py. Their names: pool_names.py.

A pooling op says two things, over all windows at once: what becomes of the elements of a window (`reduce`), and what
gradient goes to each of them (`gradient`). The walk does the rest:

    rule        checks the geometry and the op's own attributes; `geometry.Window` then knows every tap of every window
    forward     pads x with `fill`, gathers the elements of all windows into one array `Windows.values`, and reduces it
    backward    calls `gradient`, drops what falls on padding, and adds the gradients of all windows up at their place
    problem     draws x, geometry and attributes, away from ties, for gradcheck, tests and benchmark

`variant` registers two ops: the op itself, and its global form, whose window is all of S. Each is a `Variant`, and
`Variant.whole` alone decides what differs between the two. In C: csrc/pool_walk.h. On the device: pool_walk_cuda.py.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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


WINDOW = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}  # beside `kernel`; stride: default kernel

GEOMETRY = """
    Shapes: x (N, C, *S) to y (N, C, *O), rank 1 to 3. `kernel`, `stride` (default: kernel), `dilation`: an int or one
    per axis; `padding`: an int, one per axis or a (begin, end) pair per axis. `ceil_mode` rounds the output size up.
    Raises ShapeError (also where a window would hold padding alone), DTypeError."""


GLOBAL = """
    Shapes: x (N, C, *S) to y (N, C, 1, ...), rank 1 to 3, any S. Raises ShapeError, DTypeError."""


@dataclass(frozen=True)
class Shown:
    """What a pooling op is called outside of the ops: as a layer, and by `pool=`.

    layer: the layer's class, without its number of axes; None for an op that has no layer, as fused ones.
    leads: the attribute that the layer takes in front of kernel_size.
    leads_as: another name of the leading argument, PyTorch's.
    evaluates: of an op that draws, the op that its layer runs in evaluation mode, with the same attributes.
    named: attributes that differ from their defaults where the op is given by its name.
    """

    layer: str | None
    leads: str = ""
    leads_as: str = ""
    evaluates: str = ""
    named: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Variant:
    """A pooling op: its entry in the table of pool.py, and what follows from it. The fields: see `variant`."""

    name: str
    reduce: Callable[..., Arrays]
    gradient: Callable[..., np.ndarray]
    doc: str
    attrs: Mapping[str, bool | Number]
    fill: float
    draws: bool
    extras: Mapping[str, Any]
    unused: Callable[[Any], bool]
    saved: tuple[str, ...]
    local: tuple[str, ...]
    shown: Shown
    whole: bool = False  # over all of S, whatever its size

    def over_all(self) -> Variant:
        """The global form."""
        summary, rest = self.doc.split("\n", 1)
        doc = f"`{self.name}` over all of S, whatever its size: {summary[0].lower()}{summary[1:]}\n{rest}"
        return dataclasses.replace(self, name=f"global_{self.name}", doc=doc, whole=True)

    @property
    def arrays(self) -> dict[str, Role]:
        return {"x": MAP, "u": RANDOM} if self.draws else {"x": MAP}

    @property
    def own(self) -> dict[str, bool | Number]:
        """The attributes that the op takes beside its geometry."""
        return {name: kind for name, kind in self.attrs.items() if not (self.whole and name in self.local)}

    def register(self, kernels_of: str = "") -> Callable[..., Any]:
        """Enter the op in the registry, and return its function."""
        rule = self.rule()
        return register(
            Op(
                name=self.name, rule=rule, forward=self.forward, backward=self.backward, arrays=self.arrays,
                saved=self.saved, domain=self.problem, flops=_flops, kernels_of=kernels_of,
            )
        )  # fmt: skip

    def rule(self) -> Callable[..., Spec]:
        """`check` as the op's rule: with the op's docstring, the module of its entry, and its signature."""

        def rule(x: Any, *u: Any, **given: Any) -> Spec:
            return self.check(x, given)

        rule.__doc__ = f"{self.doc}\n{GLOBAL if self.whole else GEOMETRY}"
        rule.__module__ = self.reduce.__module__
        rule.__signature__ = self.signature()  # type: ignore[attr-defined]
        rule.variant = self  # type: ignore[attr-defined]
        return rule

    def signature(self) -> inspect.Signature:
        """The arrays by their place; by name the geometry, where the op has one, and the op's own attributes."""
        arrays = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in self.arrays]
        defaults = {} if self.whole else {"kernel": inspect.Parameter.empty, **WINDOW}
        defaults |= {name: _default(kind) for name, kind in self.own.items()}
        attrs = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in defaults.items()
        ]
        return inspect.Signature([*arrays, *attrs])

    def check(self, x: Any, given: dict[str, Any]) -> Spec:
        """What a call comes to. Raises ShapeError, CnncoreError, TypeError."""
        left = dict(given)
        if self.whole:
            geometry_: tuple[Any, ...] = (tuple(x.shape[2:]), 1)
        elif "kernel" not in left:
            raise TypeError(f"{self.name}() missing a required argument: 'kernel'")
        else:
            kernel = left.pop("kernel")
            stride, *others = [left.pop(name, default) for name, default in WINDOW.items()]
            geometry_ = (kernel, kernel if stride is None else stride, *others)
        if unknown := left.keys() - self.own.keys():
            raise TypeError(f"{self.name}() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        window = _resolve(self.name, x, *geometry_)
        p = SimpleNamespace(window=window, **{name: self.attribute(name, left) for name in self.attrs})
        shape = (*x.shape[:2], *window.out)
        extra_shape = (0,) if self.unused(p) else shape
        results = {"y": (shape, None), **{extra: (extra_shape, kind) for extra, kind in self.extras.items()}}
        return Spec(p, results, random=shape if self.draws else None)

    def attribute(self, name: str, given: Mapping[str, Any]) -> Any:
        kind = self.attrs[name]
        value = given.get(name, _default(kind))
        return kind.check(self.name, name, value) if isinstance(kind, Number) else geometry.flag(self.name, name, value)

    def forward(self, p: Any, x: np.ndarray, *u: np.ndarray) -> Arrays:
        return self.reduce(_windows(p.window, x, self.fill), p, *u)

    def backward(self, p: Any, needs: tuple[bool, ...], dy: np.ndarray, *kept: np.ndarray) -> Arrays:
        if not needs[0]:
            return (None,) * len(needs)
        by_name = dict(zip(self.saved, kept, strict=True))
        windows = _windows(p.window, by_name.pop("x", None), self.fill)
        dvalues = self.gradient(windows, p, dy, *by_name.values())
        dx = np.zeros((*dy.shape[:2], *p.window.padded))
        for t, at in p.window.offsets():
            dx[(..., *at)] += np.where(windows.real[..., t], dvalues[..., t], 0)
        return (dx[p.window.inside].astype(dy.dtype), *(None,) * (len(needs) - 1))

    def problem(self, draw: domain.Draw) -> Case:
        """A drawn problem."""
        attrs: dict[str, Any] = {}
        if self.whole:
            rank = draw.choice([2, 1, 3])
            maps = draw.integer(1, 2), draw.integer(1, 3)
            x, gap = draw.distinct(*maps, *(draw.integer(1, 8 - 2 * rank) for _ in range(rank)))
            out: tuple[int, ...] = (1,) * rank
        else:
            size, attrs = domain.window(draw)
            x, gap = draw.distinct(draw.integer(1, 2), draw.integer(1, 3), *size)
            attrs["ceil_mode"] = draw.choice([False, True])
            out = geometry.resolve("domain", size, **attrs).out
        for name, kind in self.own.items():
            attrs[name] = draw.choice(kind.drawn if isinstance(kind, Number) else (True, False))
        return Case((x, draw.uniform(*x.shape[:2], *out)), attrs) if self.draws else Case((x,), attrs, gap)


def variant(
    name: str,
    reduce: Callable[..., Arrays],
    gradient: Callable[..., np.ndarray],
    *,
    doc: str,
    attrs: Mapping[str, bool | Number] | None = None,
    fill: float = 0.0,
    draws: bool = False,
    extras: Mapping[str, Any] | None = None,
    unused: Callable[[Any], bool] = lambda p: False,
    saved: tuple[str, ...] = (),
    local: tuple[str, ...] = (),
    shown: Shown | None = None,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Register a pooling op and its global form, `global_<name>`, whose window is the whole map. Returns both.

    attrs: the variant's own keyword attributes. A bool is an attribute's default; a Number says more. `reduce` and
        `gradient` read an attribute as `p.<attribute>`.
    fill: the value that `reduce` sees at elements of a window that are not real.
    draws: whether the op takes uniforms u, of y's shape, as its second argument.
    extras: name -> dtype of further results (N, C, *O), which are kept for `gradient`. Where `unused(p)` is true these
        results are empty arrays.
    saved: what `gradient` reads: "x", "y", or names of extras. If "x" is saved, `v.values` is filled in backward too.
        An op that saves x is taken to have a kink where x changes its sign.
    local: the attributes that the global form lacks.
    shown: what the op's layer is called and takes; by default top_two_pool is TopTwoPool.
    """
    made = Variant(
        name, reduce, gradient, doc, attrs or {}, fill, draws, extras or {}, unused, saved, local,
        shown or Shown("".join(map(str.capitalize, name.split("_")))),
    )  # fmt: skip
    return made.register(), made.over_all().register(kernels_of=name)


def _default(kind: bool | Number) -> Any:
    return kind.default if isinstance(kind, Number) else kind


def _resolve(name: str, x: Any, *geometry_: Any) -> geometry.Window:
    if not 3 <= len(x.shape) <= 5:
        raise ShapeError(f"{name}: x must be (N, C, *S) with 1 to 3 spatial axes, got shape {tuple(x.shape)}")
    window = geometry.resolve(name, x.shape[2:], *geometry_)
    geometry.reject_padding_only(name, window)
    return window


def _flops(spec: Spec, arrays: Arrays) -> tuple[int, int]:
    count = math.prod(spec.results["y"][0]) * spec.params.window.taps
    return count, count
