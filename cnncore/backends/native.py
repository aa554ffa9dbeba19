"""The backend on the C kernels of csrc/: no code per op. launch.py calls them, slots.py says what they take.

A kernel is found by name (`<op>_forward_f32`) and called with its arguments in the order that csrc/kernels.h fixes.
Feature maps of one call share one layout, contiguous or channels-last, taken from the first of them; results and
gradients come out in it. An array in another layout, with gaps, or not aligned is copied once on entry.
"""

from __future__ import annotations

import functools
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


class Forward(NamedTuple):
    """What a plan's forward launches: None where there is nothing to compute."""

    launch: Launch | None
    results: list[Slot]
    copied: list[tuple[int, Slot]]  # of the arguments, those that a kernel cannot take as they lie


class Backward(NamedTuple):
    """What a plan's backward launches for certain gradients: None where there is nothing to compute."""

    launch: Launch | None
    gradients: list[tuple[int, Slot | None]]  # of which argument; None where it is not wanted
    read: list[Slot | None]


def _slots(plan: Any) -> tuple[list[Slot | None], list[Slot]]:
    """Of the arguments and of the results."""
    arguments: list[Slot | None] = []
    for given, role in zip(plan.inputs, plan.op.roles(plan.inputs), strict=True):
        shape = plan.spec.random if role.drawn else given
        last = plan.channels_last and (role.maps or role.drawn)
        arguments.append(None if shape is None else slot_of(shape, role.dtype or plan.dtype, last))
    kinds = plan.spec.results.values()
    return arguments, [slot_of(shape, np.dtype(kind or plan.dtype), plan.channels_last) for shape, kind in kinds]


def _forward(plan: Any, arrays: Any) -> Forward:
    op, (arguments, results) = plan.op, _slots(plan)
    copied = [(i, slot) for i, slot in enumerate(arguments) if slot and ready(slot, arrays[i]) is not arrays[i]]
    if not any(slot.size for slot in results):
        return Forward(None, results, copied)
    slots = [*results, arguments] if op.variadic else [*results, *arguments]
    return Forward(Launch(f"{op.kernel}_forward", plan.dtype, plan.spec.params, slots), results, copied)


def _backward(plan: Any, needs: tuple[bool, ...], spare: bool) -> Backward:
    op, (arguments, results) = plan.op, _slots(plan)
    above = results[: op.outputs]
    read = [*above, *[(*arguments, *results)[place] for place in plan.saved]]
    places = [i for i, role in enumerate(op.roles(arguments)) if role.gradient]
    wanted = [arguments[i] if needs[i] else None for i in places]
    gradients = list(zip(places, wanted, strict=True))
    if not any(needs) or not all(slot.size for slot in above):  # kernels divide by the lengths of what they are given
        return Backward(None, gradients, read)
    slots = [arguments, *read] if op.variadic else [*wanted, *read]
    launch = Launch(
        f"{op.kernel}_backward", plan.dtype, plan.spec.params, slots, len(slots) - len(read) if spare else None
    )
    return Backward(launch, gradients, read)


def _targets(op: Any, out: Any, slots: list[Slot], arrays: Any) -> list[np.ndarray]:
    """Where a kernel writes its results: to `out` where it may."""
    writable = [a if _may_write(op, a, arrays, slot.last) else None for a, slot in zip(out, slots, strict=False)]
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

    def forward(self, plan: Any, arrays: Any, out: Any = None) -> tuple[Any, ...]:
        isa = current_isa()
        if isa not in plan.launches:
            plan.launches[isa] = _forward(plan, arrays)
        launch, slots, copied = plan.launches[isa]
        read = list(arrays)
        for i, slot in copied:
            read[i] = ready(slot, read[i])
        results = [slot.empty() for slot in slots] if out is None else _targets(plan.op, out, slots, arrays)
        if launch is not None:
            launch([*results, *read])
        for i, target in enumerate(out or ()):
            if results[i] is not target:
                target[...] = results[i]
                results[i] = target
        return tuple(results)

    def backward(self, plan: Any, needs: Any, dys: Any, saved: Any, spare: bool = False) -> tuple[Any, ...]:
        key = current_isa(), needs, spare
        if key not in plan.launches:
            plan.launches[key] = _backward(plan, needs, spare)
        launch, slots, known = plan.launches[key]
        read = [slot and ready(slot, a) for slot, a in zip(known, (*dys, *saved), strict=True)]
        count = plan.op.outputs
        if not spare and all(a is not dy for a, dy in zip(read, dys, strict=False)):  # copies are ours
            return self.backward(plan, needs, tuple(read[:count]), saved, spare=True)
        gradients: list[Any] = [None] * len(needs)
        for i, slot in slots:
            if slot is not None:
                gradients[i] = read[0] if spare and plan.op.elementwise else slot.empty()
        if launch is not None:
            launch([*[gradients[i] for i, _ in slots], *read])
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
