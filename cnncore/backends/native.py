"""The backend on the C kernels of csrc/: no code per op. launch.py calls them, slots.py says what they take.

A kernel is found by name (`<op>_forward_f32`) and called with its arguments in the order that csrc/kernels.h fixes.
Feature maps of one call share one layout, contiguous or channels-last, taken from the first of them; results and
gradients come out in it. An array in another layout, with gaps, or not aligned is copied once on entry.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import memory
from .launch import SUFFIX, Launch, ready
from .library import (
    compiled,
    current_isa,
    get_threads,
    info,
    loaded,
    set_threads,
    supported,
    use_isa,
    use_threads,
)
from .slots import Slot, Uniforms, is_channels_last, is_dense, slot_of

__all__ = [
    "compiled",
    "current_isa",
    "get_threads",
    "info",
    "loaded",
    "set_threads",
    "supported",
    "use_isa",
    "use_threads",
]


class Run(NamedTuple):
    """What one direction of a plan launches on one instruction set."""

    launch: Launch | None  # None where there is nothing to compute
    read: list[tuple[int, Slot]]  # of the arrays that it reads, those that are looked at in every call
    gradients: Sequence[tuple[int, Slot | None]] = ()  # of which argument; None: not wanted


class Work:
    """What is kept for calls of a plan: the slots of its arguments and results, and what was launched, by instruction
    set, wanted gradients (None: forward) and whether dy is spare."""

    def __init__(self, plan: Any) -> None:
        self.arguments: list[Slot | None] = []
        for given, role in zip(plan.inputs, plan.roles, strict=True):
            shape = plan.spec.random if role.drawn else given
            channels_last = plan.channels_last and (role.maps or role.drawn)
            self.arguments.append(None if shape is None else slot_of(shape, role.dtype or plan.dtype, channels_last))
        kinds = plan.spec.results.values()
        self.results = [slot_of(shape, np.dtype(kind or plan.dtype), plan.channels_last) for shape, kind in kinds]
        self.runs: dict[Any, Run] = {}

    def forward(self, isa: str, plan: Any, arrays: Any) -> Run:
        """The arguments that lie as a kernel takes them are not looked at again: those of like calls lie so, too."""
        copied = [(i, s) for i, s in enumerate(self.arguments) if s and ready(s, arrays[i]) is not arrays[i]]
        if not any(slot.size for slot in self.results):
            return Run(None, copied)
        slots = [*self.results, self.arguments] if plan.op.variadic else [*self.results, *self.arguments]
        kernel, changing = f"{plan.op.kernel}_forward", plan.op.changing is not None
        return Run(Launch(isa, kernel, plan.dtype, plan.spec.params, slots, changing=changing), copied)

    def backward(self, isa: str, plan: Any, needs: tuple[bool, ...], spare: bool) -> Run:
        op, above = plan.op, self.results[: plan.op.outputs]
        read = [*above, *[(*self.arguments, *self.results)[place] for place in plan.saved]]
        wanted = [(i, self.arguments[i] if needs[i] else None) for i, role in enumerate(plan.roles) if role.gradient]
        looked = [(i, slot) for i, slot in enumerate(read) if slot]
        # Kernels divide by the lengths of what they are given.
        if not any(needs) or not all(slot.size for slot in above):
            return Run(None, looked, wanted)
        slots = [self.arguments, *read] if op.variadic else [*[slot for _, slot in wanted], *read]
        place = len(slots) - len(read) if spare else None
        return Run(Launch(isa, f"{op.kernel}_backward", plan.dtype, plan.spec.params, slots, place), looked, wanted)


def _targets(op: Any, out: Any, slots: list[Slot], arrays: Any) -> list[np.ndarray]:
    """Where a kernel writes its results: to `out` where it may."""
    writable = [
        a if _may_write(op, a, arrays, slot.channels_last) else None for a, slot in zip(out, slots, strict=False)
    ]
    given = [*writable, *(None,) * (len(slots) - len(writable))]
    return [slot.empty() if a is None else a for a, slot in zip(given, slots, strict=True)]


def _may_write(op: Any, target: np.ndarray, arrays: Any, channels_last: bool) -> bool:
    """Whether a kernel may write its result straight to `target`: it is dense, and overlaps no argument, unless the op
    goes element by element and the two are one and the same."""
    return is_dense(target, channels_last) and all(
        op.elementwise and (a is target or a.__array_interface__ == target.__array_interface__)
        for a in arrays
        if isinstance(a, np.ndarray) and np.may_share_memory(a, target)
    )


# --- the backend ---------------------------------------------------------------------------------------------------


@functools.cache
def _missing(kernel: str, backward: bool) -> str | None:
    lib = loaded().lib
    for kind in ("forward", "backward") if backward else ("forward",):
        if not hasattr(lib, f"{kernel}_{kind}_f32"):
            return f"csrc/kernels.h declares no {kernel}_{kind}"
    return None


class NativeBackend:
    """The protocol of select.py on the C kernels."""

    name = "c"
    on_device = False
    prepare = Work

    def __init__(self) -> None:
        current_isa()  # raises where there is nothing to run

    def missing(self, op: Any) -> str | None:
        return _missing(op.kernel, op.backward is not None)

    def channels_last(self, arrays: Any, roles: Any) -> bool:
        """As the first of the feature maps is that has more than one pixel."""
        for a, role in zip(arrays, roles, strict=True):
            if a is not None and role.maps and a.ndim > 2 and max(a.shape[2:]) > 1:
                return is_channels_last(a)
        return False

    def forward(self, plan: Any, arrays: Any, out: Any = None, numbers: Any = None) -> tuple[Any, ...]:
        isa, work = current_isa(), plan.work
        key = isa, None, False
        run = work.runs.get(key)
        if run is None:
            run = work.runs[key] = work.forward(isa, plan, arrays)
        read = list(arrays)
        for i, slot in run.read:
            read[i] = ready(slot, read[i])
        results = (
            [slot.empty() for slot in work.results] if out is None else _targets(plan.op, out, work.results, arrays)
        )
        if run.launch is not None:
            run.launch([*results, *read], numbers)
        for i, target in enumerate(out or ()):
            if results[i] is not target:
                target[...] = results[i]
                results[i] = target
        return tuple(results)

    def backward(self, plan: Any, needs: Any, dys: Any, saved: Any, spare: bool = False) -> tuple[Any, ...]:
        isa, work = current_isa(), plan.work
        key = isa, needs, spare
        run = work.runs.get(key)
        if run is None:
            run = work.runs[key] = work.backward(isa, plan, needs, spare)
        read = [*dys, *saved]
        for i, slot in run.read:
            read[i] = ready(slot, read[i])
        if not spare and all(a is not dy for a, dy in zip(read, dys, strict=False)):  # copies are ours
            return self.backward(plan, needs, tuple(read[: len(dys)]), saved, spare=True)
        gradients: list[Any] = [None] * len(needs)
        for i, slot in run.gradients:
            if slot is not None:
                gradients[i] = read[0] if spare and plan.op.elementwise else slot.empty()
        if run.launch is not None:
            run.launch([*[gradients[i] for i, _ in run.gradients], *read])
        else:
            for gradient in gradients:
                if gradient is not None:
                    gradient.fill(0)
        return tuple(gradients)

    def random(self, key: tuple[int, int], shape: tuple[int, ...], dtype: Any) -> Uniforms:
        return Uniforms(key, shape)

    def uniform(self, key: tuple[int, int], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        u = memory.empty(shape, np.dtype(dtype))
        module = loaded()
        kernel = getattr(module.lib, f"cc_uniform_{SUFFIX[np.dtype(dtype)]}")
        kernel(module.ffi.cast(module.ffi.typeof(kernel).args[0], u.ctypes.data), u.size, *key)
        return u
