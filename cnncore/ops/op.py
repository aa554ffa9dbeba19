"""The Op record, and how one call runs: check, choose a backend, compute, keep what backward reads.

    y, ctx = op(*arrays, backend=None, out=None, **attributes)
    grads = ctx.backward(dy, needs=None)      # one dy per output

An op is one `Op` record. Its `rule` has the op's signature and docstring, checks everything a user can get wrong, and
returns a `Spec`: the parameters every backend computes from and the shapes of every result. `forward` and `backward`
are the NumPy definition; kernels in C (`<name>_forward_f32`, ...) and CUDA are found by the op's name.

What shapes, types and attributes decide is worked out once, and kept as a `Plan` for the calls that are like it: behind
a kernel that went through all of the cache, Python's checks took 0.2 ms, 10 % of the time of a pool of 25 MB. Numbers
that change from call to call (a rate, a step) travel with the call.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..backends import select
from ..backends.device import device_of, foreign_signature
from ..errors import CnncoreError, DTypeError, ShapeError
from . import checks
from .geometry import elements
from .recording import Call, recorded
from .roles import MAP, Role
from .spec import Arrays, Case, Cost, Shape, Spec, shapes_text
from .writes import written

MOST_PLANS = 64  # of an op: more than a network has


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
    changing: Callable[..., dict[str, float]] | None = None  # of attributes that change from call to call: the numbers
    # among the Spec's params that they decide, checked; its keyword arguments are these attributes
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
            plan, numbers = self._plan(arrays, attrs, backend)
            arrays += (None,) * (len(plan.names) - len(arrays))
            self.values(*arrays)
            if out is not None:
                checks.check_out(plan, out)
                for target in out:
                    written(target)
            try:
                if plan.drawn is not None:
                    arrays = checks.with_uniforms(plan, arrays)
                if plan.large:
                    np.empty(plan.size, np.uint8)
                results = plan.engine.forward(plan, arrays, out, numbers)
            except MemoryError as error:
                raise CnncoreError(f"{self.name}: out of memory: {error}") from error
            if (calls := recorded.get()) is not None:
                calls.append(Call(self.name, self.flops(plan.spec, arrays)[0], plan.size))
            known = (*arrays, *results)
            context = Context(plan, tuple([known[place] for place in plan.saved]))
            return (results[0] if self.outputs == 1 else tuple(results[: self.outputs])), context

        signature = inspect.signature(self.rule)
        keyword = inspect.Parameter("backend", inspect.Parameter.KEYWORD_ONLY, default=None)
        functools.update_wrapper(call, self.rule)
        call.__name__ = call.__qualname__ = self.name
        call.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*signature.parameters.values(), keyword], return_annotation=inspect.Signature.empty
        )
        call.op = self  # type: ignore[attr-defined]
        return call

    @functools.cached_property
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

    def columns(self, arrays: Arrays) -> tuple[tuple[str, ...], tuple[Role, ...]]:
        """A name and a role for every array argument; `*xs` become xs0, xs1, ..."""
        if not self.variadic:
            return self._columns
        (name,) = self.arrays
        return tuple(f"{name}{i}" for i in range(len(arrays))), (MAP,) * len(arrays)

    def names(self, arrays: Arrays) -> tuple[str, ...]:
        return self.columns(arrays)[0]

    def roles(self, arrays: Arrays) -> tuple[Role, ...]:
        return self.columns(arrays)[1]

    def differentiable(self, arrays: Arrays) -> tuple[bool, ...]:
        """Which array arguments have a gradient."""
        return _differentiable(self, arrays, self.roles(arrays))

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

    @functools.cached_property
    def _changing(self) -> frozenset[str]:
        """The attributes that change from call to call."""
        return frozenset(inspect.signature(self.changing).parameters) if self.changing else frozenset()

    def _plan(self, arrays: Arrays, attrs: dict[str, Any], backend: str | None) -> tuple[Plan, dict[str, float] | None]:
        """The plan of a call, that of an earlier one if there was one like it; and the numbers that change."""
        fixed, numbers = attrs, None
        if self.changing is not None:
            given = {name: value for name, value in attrs.items() if name in self._changing}
            fixed = {name: value for name, value in attrs.items() if name not in self._changing}
            try:
                numbers = self.changing(**given)
            except TypeError as error:
                raise checks.explained(self, arrays, attrs) or error from None
        try:
            signature = [
                (a.shape, a.strides, a.dtype, a.flags.aligned) if type(a) is np.ndarray else foreign_signature(a)
                for a in arrays
            ]
            key = (backend or select.chosen(), *signature, *fixed.items())
            plan = self.plans.get(key)
        except TypeError:  # what no plan is kept for, or an attribute that may change, as lists may
            return _new_plan(self, arrays, attrs, fixed, backend), numbers
        # True == 1 == 1.0, but not all three are a kernel's size: attributes must be the very same.
        if plan is None or not all(map(operator.is_, fixed.values(), plan.attrs)):
            plan = _new_plan(self, arrays, attrs, fixed, backend)
            if len(self.plans) >= MOST_PLANS:
                self.plans.clear()
            self.plans[key] = plan
        return plan, numbers


@dataclass(slots=True, kw_only=True)
class Plan:
    """All of a call that its op, attributes, and its arrays' shapes, types and strides decide; calls share it.

    attrs: the attributes' values, but those that change.
    dtype: that of the float arguments; `inputs`: the shapes of all array arguments, None where left out.
    channels_last: whether the call's feature maps lie channels last in memory. Backward keeps to it, since arrays of
        one pixel, all that a global pool's backward may see, do not tell.
    saved: the places of what backward reads among the arguments and, behind them, the results.
    drawn: the place of the randomness among the arguments.
    size: bytes of all results. large: so many that they are asked for first, so that MemoryError is raised now, and not
        after minutes of work, where they can never fit. (An input may be endless: an array of stride 0.)
    work: what the backend keeps for such calls.
    """

    op: Op
    spec: Spec
    engine: Any  # the backend; the one that computes forward computes backward too
    attrs: tuple[Any, ...]
    names: tuple[str, ...]
    roles: tuple[Role, ...]
    dtype: Any
    inputs: tuple[Shape | None, ...]
    channels_last: bool
    differentiable: tuple[bool, ...]
    saved: tuple[int, ...]
    drawn: int | None
    size: int
    large: bool
    work: Any = None

    def __repr__(self) -> str:
        results = shapes_text(shape for shape, _ in self.spec.results.values())
        return f"Plan({self.op.name} on {self.engine.name}: {shapes_text(self.inputs)} -> {results}, {self.dtype})"

    def params(self, numbers: dict[str, float] | None) -> SimpleNamespace:
        """The parameters of one call."""
        return self.spec.params if numbers is None else SimpleNamespace(**{**vars(self.spec.params), **numbers})


@dataclass(slots=True)
class Context:
    """What one forward keeps for its backward."""

    plan: Plan
    saved: Arrays

    def __repr__(self) -> str:
        inputs = shapes_text(self.plan.inputs)
        return f"Context({self.op.name} on {self.backend}: {inputs} -> {shapes_text([self.shape])}, {self.dtype})"

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
            wanted = checks.names_among(name, needs, plan.names)
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
        checks.check_array(name, about, dy)
        if tuple(dy.shape) != shape:
            raise ShapeError(f"{name}: {about} must have y's shape {shape}, got {tuple(dy.shape)}")
        if dy.dtype != plan.dtype:
            raise DTypeError(f"{name}: {about} must have y's dtype {plan.dtype}, got {dy.dtype}")
        checked.append(dy)
    return tuple(checked)


def run(op: Op, arrays: Arrays, attrs: dict[str, Any], backend: str | None = None, out: Any = None) -> Any:
    """One call of a record. `out` is a tuple of arrays to write the outputs to (they may be inputs)."""
    return op.function(*arrays, backend=backend, out=out, **attrs)


def _new_plan(op: Op, arrays: Arrays, attrs: dict[str, Any], fixed: dict[str, Any], backend: str | None) -> Plan:
    """Check all that does not depend on what arrays hold."""
    arrays = checks.filled(op, arrays)
    names, roles = op.columns(arrays)
    dtype = checks.check_types(op, names, roles, arrays)
    try:
        spec = op.rule(*arrays, **attrs)
    except TypeError as error:
        raise checks.explained(op, arrays, attrs) or error from None
    size = sum([elements(op.name, (*shape, np.dtype(kind or dtype).itemsize)) for shape, kind in spec.results.values()])
    engine = select.engine(op, backend, arrays)
    known = (*names, *spec.results)
    plan = Plan(
        op=op, spec=spec, engine=engine, attrs=tuple(fixed.values()), names=names, roles=roles, dtype=dtype,
        inputs=tuple([None if getattr(a, "shape", None) is None else tuple(a.shape) for a in arrays]),
        channels_last=engine.channels_last(arrays, roles), differentiable=_differentiable(op, arrays, roles),
        saved=tuple([len(known) - 1 - known[::-1].index(name) for name in op.saved]),
        drawn=None if spec.random is None else [role.drawn for role in roles].index(True),
        size=size, large=size > 2**32 and not engine.on_device,
    )  # fmt: skip
    plan.work = engine.prepare(plan)
    return plan


def _differentiable(op: Op, arrays: Arrays, roles: tuple[Role, ...]) -> tuple[bool, ...]:
    return tuple([op.backward is not None and a is not None and r.gradient for a, r in zip(arrays, roles, strict=True)])
