"""The Op record, the registry, and how one call runs: check, choose a backend, compute, keep what backward reads.

    y, ctx = op(*arrays, backend=None, out=None, **attributes)
    grads = ctx.backward(dy, needs=None)      # one dy per output

An op is one `Op` record. Its `rule` has the op's signature and docstring, checks everything a user can get wrong, and
returns a `Spec`: the parameters every backend computes from and the shapes of every result. `forward` and `backward`
are the NumPy definition; kernels in C (`<name>_forward_f32`, ...) and CUDA are found by the op's name.

What shapes, types and attributes decide is worked out once, and kept as a `Plan` for the calls that are like it: behind
a kernel that went through all of the cache, Python's checks took 0.2 ms, 10 % of the time of a pool of 25 MB.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..backends import select
from ..backends.device import device_of, is_foreign
from ..errors import BackendError, CnncoreError, DTypeError, ShapeError
from .geometry import elements
from .roles import MAP, Role
from .writes import written

MAX_AXES = 5  # (N, C, D, H, W)
MOST_PLANS = 64  # of an op: more than a network has; a schedule may give new attributes at every step

Arrays = tuple[Any, ...]
Shape = tuple[int, ...]


@dataclass(slots=True)
class Spec:
    """What the rule of an op says of a call. It reads shapes, types and attributes, never what arrays hold.

    params: read by every backend; its names and types are the fields of the op's C parameter struct.
    results: name -> (shape, dtype) of what forward returns, outputs first, then extras that only backward reads.
        A dtype of None stands for the dtype of the float arguments.
    random: the shape of the uniforms `u`, for ops that draw.
    """

    params: SimpleNamespace
    results: dict[str, tuple[Shape, Any]]
    random: Shape | None = None

    def __repr__(self) -> str:
        results = zip(self.results, (shape for shape, _ in self.results.values()), strict=True)
        return f"Spec({', '.join(vars(self.params))} -> {', '.join(f'{name} {_shapes([s])}' for name, s in results)})"


@dataclass(frozen=True)
class Case:
    """One drawn problem: arrays in float64, and attributes. Every kink of the op is farther than `gap` from it."""

    arrays: Arrays
    attrs: dict[str, Any]
    gap: float = math.inf

    def __repr__(self) -> str:
        return f"Case({_shapes(map(_shape, self.arrays))}, {self.attrs}, gap={self.gap:.3g})"


@dataclass(frozen=True)
class Cost:
    """FLOPs, and the least bytes that must move: every input read once and every result written once."""

    flops: int
    bytes: int


@dataclass(frozen=True)
class Op:
    """One op. See the module's docstring; `docs/architecture.md` says how to add one."""

    name: str
    rule: Callable[..., Spec]
    forward: Callable[..., Arrays]  # forward(params, *arrays) -> results
    backward: Callable[..., Arrays] | None  # backward(params, needs, *dys, *saved) -> a gradient or None per array
    arrays: dict[str, Role]  # name -> role, in the signature's order
    saved: tuple[str, ...]  # what backward reads: names of arrays or of results
    domain: Callable[[Any], Case]  # domain(draw) -> a Case; `draw` is a `domain.Draw`
    flops: Callable[[Spec, Arrays], tuple[int, int]]  # (forward, backward)
    values: Callable[..., None] = lambda *arrays: None  # values(*arrays) raises for what they must not hold
    outputs: int = 1  # how many of the results are the user's
    elementwise: bool = False  # kernels read all elements i before they write any: `out` may be an argument, dx dy
    kernels_of: str = (
        ""  # another op whose kernels compute this one: its arguments, results and parameters are the same
    )

    def __repr__(self) -> str:
        return f"Op({self.name!r})"

    @functools.cached_property
    def function(self) -> Callable[..., tuple[Any, Context]]:
        """What users call: the rule's signature and docstring, plus `backend`; its attribute `op` is this record."""

        def call(*arrays: Any, backend: str | None = None, out: Any = None, **attrs: Any) -> tuple[Any, Context]:
            return run(self, arrays, attrs, backend, out)

        signature = inspect.signature(self.rule)
        keyword = inspect.Parameter("backend", inspect.Parameter.KEYWORD_ONLY, default=None)
        functools.update_wrapper(call, self.rule)
        call.__name__ = call.__qualname__ = self.name
        call.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*signature.parameters.values(), keyword], return_annotation=inspect.Signature.empty
        )
        call.op = self  # type: ignore[attr-defined]
        return call

    @property
    def kernel(self) -> str:
        """The name that kernels are found by."""
        return self.kernels_of or self.name

    @functools.cached_property
    def variadic(self) -> bool:
        return any(role.many for role in self.arrays.values())

    @functools.cached_property
    def required(self) -> frozenset[str]:
        """The array arguments that cannot be left out."""
        parameters = inspect.signature(self.rule).parameters
        return frozenset(name for name in self.arrays if parameters[name].default is inspect.Parameter.empty)

    @functools.cached_property
    def _columns(self) -> tuple[tuple[str, ...], tuple[Role, ...]]:
        return tuple(self.arrays), tuple(self.arrays.values())

    @functools.cached_property
    def plans(self) -> dict[Any, Plan]:
        """Plans of calls, by what tells them apart."""
        return {}

    def names(self, arrays: Arrays) -> tuple[str, ...]:
        """A name for every array argument; `*xs` become xs0, xs1, ..."""
        if self.variadic:
            return tuple(f"{next(iter(self.arrays))}{i}" for i in range(len(arrays)))
        return self._columns[0]

    def roles(self, arrays: Arrays) -> tuple[Role, ...]:
        return (MAP,) * len(arrays) if self.variadic else self._columns[1]

    def differentiable(self, arrays: Arrays) -> tuple[bool, ...]:
        """Which array arguments have a gradient."""
        if self.backward is None:
            return (False,) * len(arrays)
        return tuple([a is not None and r.gradient for a, r in zip(arrays, self.roles(arrays), strict=True)])

    def cost(self, spec: Spec, arrays: Arrays, dtype: Any) -> tuple[Cost, Cost]:
        """(forward, backward) cost of one call."""
        size = np.dtype(dtype).itemsize

        def weigh(name: str) -> int:
            if name in spec.results:
                shape, kind = spec.results[name]
                return math.prod(shape) * (np.dtype(kind).itemsize if kind is not None else size)
            found = dict(zip(self.names(arrays), arrays, strict=True)).get(name)
            return 0 if found is None or isinstance(found, tuple) else math.prod(found.shape) * size

        inputs = sum(weigh(name) for name in self.names(arrays))
        results = sum(weigh(name) for name in spec.results)
        output = weigh(next(iter(spec.results)))
        saved = sum(weigh(name) for name in self.saved)
        gradients = sum(weigh(n) for n, d in zip(self.names(arrays), self.differentiable(arrays), strict=True) if d)
        forward, backward = self.flops(spec, arrays)
        return Cost(forward, inputs + results), Cost(backward, output + saved + gradients)


@dataclass(slots=True)
class Plan:
    """All of a call that its op, attributes, and its arrays' shapes, types and strides decide; calls share it.

    attrs: the attributes' values.
    dtype: that of the float arguments; `inputs`: the shapes of all array arguments, None where left out.
    channels_last: whether the call's feature maps lie channels last in memory. Backward keeps to it, since arrays of
        one pixel, all that a global pool's backward may see, do not tell.
    saved: the places of what backward reads among the arguments and, behind them, the results.
    size: bytes of all results.
    launches: what the backend keeps for such calls.
    """

    op: Op
    spec: Spec
    engine: Any  # the backend; the one that computes forward computes backward too
    attrs: tuple[Any, ...]
    names: tuple[str, ...]
    dtype: Any
    inputs: tuple[Shape | None, ...]
    channels_last: bool
    differentiable: tuple[bool, ...]
    saved: tuple[int, ...]
    size: int
    launches: dict[Any, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        results = _shapes(shape for shape, _ in self.spec.results.values())
        return f"Plan({self.op.name} on {self.engine.name}: {_shapes(self.inputs)} -> {results}, {self.dtype})"


@dataclass(slots=True)
class Context:
    """What one forward keeps for its backward."""

    plan: Plan
    saved: Arrays

    def __repr__(self) -> str:
        inputs = _shapes(self.plan.inputs)
        return f"Context({self.op.name} on {self.backend}: {inputs} -> {_shapes([self.shape])}, {self.dtype})"

    @property
    def op(self) -> Op:
        return self.plan.op

    @property
    def spec(self) -> Spec:
        return self.plan.spec

    @property
    def names(self) -> tuple[str, ...]:
        """Of the array arguments."""
        return self.plan.names

    @property
    def shape(self) -> Shape:
        """Of y."""
        return next(iter(self.plan.spec.results.values()))[0]

    @property
    def dtype(self) -> Any:
        """Of y."""
        return self.plan.dtype

    @property
    def backend(self) -> str:
        """Who computed: "numpy", "c" or "cuda"."""
        return str(self.plan.engine.name)

    def backward(self, *dys: Any, needs: Iterable[str] | None = None, spare: bool = False) -> Arrays:
        """The gradient of sum(dy * y) with respect to every array argument, in the signature's order.

        There is one dy per output, with its shape and dtype; None stands for one that is 0. It may be left out where y
        is a scalar: it is 1. `needs` names the arguments whose gradient is wanted (all differentiable ones by default);
        every other entry is None and is not computed. A `spare` dy is read by nobody else: it may be overwritten, and
        come back as a gradient.
        """
        plan = self.plan
        name = plan.op.name
        if plan.op.backward is None:
            raise CnncoreError(f"{name}: has no gradient")
        dys = _gradients_above(plan, dys, self.saved)
        mask = plan.differentiable
        if needs is not None:
            wanted = _names(name, needs, plan.names)
            mask = tuple([d and n in wanted for n, d in zip(plan.names, mask, strict=True)])
        try:
            return tuple(plan.engine.backward(plan, mask, dys, self.saved, spare))
        except MemoryError as error:
            raise CnncoreError(f"{name}: out of memory: {error}") from error


def _gradients_above(plan: Plan, dys: Arrays, saved: Arrays) -> Arrays:
    """One dy per output, checked."""
    name, outputs = plan.op.name, list(plan.spec.results.items())[: plan.op.outputs]
    if not dys and len(outputs) == 1 and outputs[0][1][0] == ():
        dys = (device_of(*saved).full((), 1, plan.dtype),)
    if len(dys) != len(outputs):
        told = ", ".join(output for output, _ in outputs)
        raise CnncoreError(f"{name}: backward takes a dy for each of its outputs ({told}), got {len(dys)}")
    checked = []
    for (output, (shape, kind)), dy in zip(outputs, dys, strict=True):
        if dy is None and len(outputs) > 1:
            dy = device_of(*saved).full(shape, 0, kind or plan.dtype)
        about = "dy" if len(outputs) == 1 else f"dy for {output}"
        _check_array(name, about, dy)
        if tuple(dy.shape) != shape:
            raise ShapeError(f"{name}: {about} must have y's shape {shape}, got {tuple(dy.shape)}")
        if dy.dtype != plan.dtype:
            raise DTypeError(f"{name}: {about} must have y's dtype {plan.dtype}, got {dy.dtype}")
        checked.append(dy)
    return tuple(checked)


def _shape(a: Any) -> Shape | None:
    return tuple(a.shape) if hasattr(a, "shape") else None


def _shapes(shapes: Iterable[Shape | None], most: int = 6) -> str:
    """The shapes of a call's arrays, for reprs: as many as can be read at a glance."""
    told = ["none" if shape is None else "x".join(map(str, shape)) or "scalar" for shape in shapes]
    return ", ".join(told[:most]) + (f", ... ({len(told)} arrays)" if len(told) > most else "")


_registry: dict[str, Op] = {}


class _Registry(Mapping[str, Op]):
    """Read-only view, in the order of registration."""

    def __repr__(self) -> str:
        return f"registry of {len(self)} ops: {', '.join(itertools.islice(self, 5))}, ..."

    def __getitem__(self, name: str) -> Op:
        try:
            return _registry[name]
        except KeyError:
            raise CnncoreError(f"no op is called {name!r}; there are: {', '.join(_registry)}") from None

    def __contains__(self, name: object) -> bool:
        return name in _registry

    def __iter__(self) -> Any:
        return iter(_registry)

    def __len__(self) -> int:
        return len(_registry)


registry: Mapping[str, Op] = _Registry()


def register(op: Op) -> Callable[..., tuple[Any, Context]]:
    """Enter an op and return the function users call."""
    if op.name in _registry:
        raise CnncoreError(f"an op called {op.name!r} is registered already")
    _registry[op.name] = op
    return op.function


@dataclass(frozen=True)
class Call:
    """One op call, as `recording` sees it: FLOPs of the forward, and bytes of all its results."""

    name: str
    flops: int
    bytes: int


_calls: contextvars.ContextVar[list[Call] | None] = contextvars.ContextVar("cnncore_calls", default=None)


@contextlib.contextmanager
def recording() -> Iterator[list[Call]]:
    """The op calls made inside the block, in order."""
    calls: list[Call] = []
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


def run(op: Op, arrays: Arrays, attrs: dict[str, Any], backend: str | None = None, out: Any = None) -> Any:
    """Check, dispatch and compute one call. `out` is a tuple of arrays to write the outputs to (they may be inputs)."""
    plan = _plan(op, arrays, attrs, backend)
    spec, engine = plan.spec, plan.engine
    arrays += (None,) * (len(plan.names) - len(arrays))
    op.values(*arrays)
    if out is not None:
        _check_out(plan, out)
        for target in out:
            written(target)
    try:
        if plan.size > 2**32 and engine.name != "cuda":
            # Raise MemoryError now, not after minutes of work, where results of so many bytes can never fit. (An input
            # may be endless: an array of stride 0.)
            np.empty(plan.size, np.uint8)
        if spec.random is not None:
            place = next(i for i, role in enumerate(op.roles(arrays)) if role.drawn)
            u = _uniforms(op, engine, arrays[place], spec.random, plan.dtype)
            arrays = (*arrays[:place], u, *arrays[place + 1 :])
        results = engine.forward(plan, arrays, out)
    except MemoryError as error:
        raise CnncoreError(f"{op.name}: out of memory: {error}") from error
    if (calls := _calls.get()) is not None:
        calls.append(Call(op.name, op.flops(spec, arrays)[0], plan.size))
    known = (*arrays, *results)
    context = Context(plan, tuple([known[place] for place in plan.saved]))
    return (results[0] if op.outputs == 1 else tuple(results[: op.outputs])), context


def _plan(op: Op, arrays: Arrays, attrs: dict[str, Any], backend: str | None) -> Plan:
    """The plan of a call: that of an earlier one, if there was one like it."""
    try:
        key = (backend or select.chosen(), *map(_signature, arrays), *attrs.items())
        plan = op.plans.get(key)
    except TypeError:  # no NumPy arrays, or an attribute that may change, as lists may
        return _new_plan(op, arrays, attrs, backend)
    # True == 1 == 1.0, but not all three are a kernel's size: attributes must be the very same.
    if plan is None or not all(map(operator.is_, attrs.values(), plan.attrs)):
        plan = _new_plan(op, arrays, attrs, backend)
        if len(op.plans) >= MOST_PLANS:
            op.plans.clear()
        op.plans[key] = plan
    return plan


def _signature(a: Any) -> Any:
    """What a plan depends on of an array argument. Raises TypeError for what is neither a NumPy array nor left out nor
    a key of randomness."""
    if type(a) is np.ndarray:
        return a.shape, a.strides, a.dtype, a.flags.aligned
    if a is None or type(a) is tuple:
        return type(a)
    raise TypeError


def _new_plan(op: Op, arrays: Arrays, attrs: dict[str, Any], backend: str | None) -> Plan:
    """Check all that does not depend on what arrays hold."""
    arrays = _fill(op, arrays)
    names, roles = op.names(arrays), op.roles(arrays)
    dtype = _check(op, names, roles, arrays)
    try:
        spec = op.rule(*arrays, **attrs)
    except TypeError:
        try:
            inspect.signature(op.rule).bind(*arrays, **attrs)
        except TypeError as error:
            raise CnncoreError(f"{op.name}: {error} (arrays are positional, attributes are given by name)") from None
        raise  # not a wrong argument name, but a defect inside the rule
    size = sum([elements(op.name, (*shape, np.dtype(kind or dtype).itemsize)) for shape, kind in spec.results.values()])
    engine = select.engine(op, backend, arrays)
    known = (*names, *spec.results)
    return Plan(
        op,
        spec,
        engine,
        tuple(attrs.values()),
        names,
        dtype,
        tuple(map(_shape, arrays)),
        engine.channels_last(arrays, roles),
        op.differentiable(arrays),
        tuple([len(known) - 1 - known[::-1].index(name) for name in op.saved]),
        size,
    )


def _fill(op: Op, arrays: Arrays) -> Arrays:
    """The array arguments, with None for optional ones that were left out."""
    if op.variadic:
        if not arrays:
            raise CnncoreError(f"{op.name}: needs at least one array")
        return arrays
    if len(arrays) > len(op.arrays):
        raise CnncoreError(
            f"{op.name}: takes {len(op.arrays)} arrays ({', '.join(op.arrays)}), got {len(arrays)}; "
            "attributes are given by name"
        )
    for name in list(op.arrays)[len(arrays) :]:
        if name in op.required:
            raise CnncoreError(f"{op.name}: argument {name} is missing")
    return arrays + (None,) * (len(op.arrays) - len(arrays))


def _check_array(op: str, name: str, a: Any) -> None:
    # Subclasses are refused, since they change what operators do: a masked array would lose its mask in C, a matrix
    # multiplies by `*`. A memmap only lives elsewhere.
    if not (type(a) is np.ndarray or isinstance(a, np.generic | np.memmap) or is_foreign(a)):
        raise DTypeError(f"{op}: {name} must be a NumPy array, got {type(a).__name__}")


def _check_out(plan: Plan, out: Any) -> None:
    """`out` has an array of the right shape and dtype for every output: kernels write to it without looking."""
    op, spec, dtype, engine = plan.op, plan.spec, plan.dtype, plan.engine
    if not isinstance(out, tuple | list) or len(out) != op.outputs:
        raise CnncoreError(f"{op.name}: out must be a tuple with one array per output ({op.outputs})")
    for target, (name, (shape, _)) in zip(out, spec.results.items(), strict=False):
        _check_array(op.name, f"out for {name}", target)
        if is_foreign(target) and engine.name != "cuda":
            raise BackendError(f"{op.name}: out for {name} is on the CUDA device, {engine.name!r} computes")
        if tuple(target.shape) != shape:
            raise ShapeError(f"{op.name}: out for {name} must have shape {shape}, got {tuple(target.shape)}")
        if target.dtype != dtype:
            raise DTypeError(f"{op.name}: out for {name} must be {dtype}, got {target.dtype}")
        if isinstance(target, np.generic) or (isinstance(target, np.ndarray) and not target.flags.writeable):
            raise CnncoreError(f"{op.name}: out for {name} must be writeable")


def _names(op: str, needs: Any, names: tuple[str, ...]) -> list[str]:
    """`needs` as a list of argument names."""
    wanted = list(needs) if isinstance(needs, Iterable) and not isinstance(needs, str) else [needs]
    if not all(isinstance(n, str) and n in names for n in wanted):
        raise CnncoreError(f"{op}: needs must name arguments among {list(names)}, got {needs!r}")
    return wanted


def _check(op: Op, names: tuple[str, ...], roles: tuple[Role, ...], arrays: Arrays) -> Any:
    """Types of all arguments; returns the one dtype of the float ones."""
    dtype = None
    first = ""
    for name, role, a in zip(names, roles, arrays, strict=True):
        if a is None and (op.variadic or name in op.required):
            raise DTypeError(f"{op.name}: {name} must be a NumPy array, got None")
        if a is None or (role.drawn and isinstance(a, tuple)):
            continue
        _check_array(op.name, name, a)
        if len(a.shape) > MAX_AXES:
            raise ShapeError(f"{op.name}: {name} has {len(a.shape)} axes, at most {MAX_AXES} are supported (N, C, *S)")
        role.check(op.name, name, a)
        if role.dtype is not None:
            continue
        if dtype is None:
            dtype, first = a.dtype, name
        elif a.dtype != dtype:
            raise DTypeError(f"{op.name}: {name} is {a.dtype}, {first} is {dtype}; all must be the same")
    return dtype


def _uniforms(op: Op, engine: Any, u: Any, shape: Shape, dtype: Any) -> Any:
    """u itself, checked, or what the backend takes for the uniforms that a Philox key stands for."""
    if isinstance(u, tuple):
        from .random import check_key

        return engine.random(check_key(op.name, u), shape, dtype)
    if tuple(u.shape) != shape:
        raise ShapeError(f"{op.name}: u must have shape {shape}, got {tuple(u.shape)}")
    return u


def flops_free(spec: Spec, arrays: Arrays) -> tuple[int, int]:
    """For ops whose time is memory traffic: one operation per output, and one per gradient."""
    count = math.prod(next(iter(spec.results.values()))[0])
    return count, count
