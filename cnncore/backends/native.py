"""Calls the C kernels of csrc/ through cffi: layouts, pointers, scratch. No code per op. library.py loads them.

A kernel is found by name (`<op>_forward_f32`) and called with its arguments in the order that csrc/kernels.h fixes.
Feature maps of one call share one layout, contiguous or channels-last, taken from the first of them; results and
gradients come out in it. An array in another layout, with gaps, or not aligned is copied once on entry.
"""

from __future__ import annotations

import functools
import struct
from typing import Any, NamedTuple

import numpy as np

from ..errors import ShapeError
from ..ops.geometry import Window
from . import memory
from .library import (
    _module,
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

POISON = False  # for tests: fill results and scratch with NaN before every call, so that what is not written shows

_SUFFIX = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}
MAX_AXES = 5


# --- memory ------------------------------------------------------------------------------------------------------


def is_channels_last(a: np.ndarray) -> bool:
    """Whether a (N, C, *S) array is dense in memory as (N, *S, C). One channel alone lies so, too, and is taken so:
    most kernels are faster channels last."""
    return 3 <= a.ndim <= MAX_AXES and a.transpose((0, *range(2, a.ndim), 1)).flags.c_contiguous


class Uniforms(NamedTuple):
    """The uniforms that a Philox key stands for, where an array of them would stand: the kernel draws them."""

    key: tuple[int, int]
    shape: tuple[int, ...]


_TENSOR = struct.Struct(f"Q{2 * MAX_AXES * 8}s3Q")  # cc_tensor of csrc/kernels.h: data, shape and stride, key, spare
_ADDRESS, _KEY = struct.Struct("Q"), struct.Struct("2Q")
_KEY_AT = 8 + 2 * MAX_AXES * 8  # in cc_tensor
# NumPy's arrays are an object's head and then the address of their data (PyArrayObject of its C API). Asked in Python,
# an array makes a dictionary of all it knows: with cold caches 25 us of a call and its backward, in a loop 4 of 24.
_HEAD = object.__basicsize__
_LAYOUT = {False: (0, 1, 2, 3, 4), True: (0, 2, 3, 4, 1)}  # axes from the slowest to the fastest


class Slot:
    """What a kernel takes or gives: a dense array of one shape, dtype and layout, wherever it lies."""

    __slots__ = ("dtype", "extent", "last", "shape", "size", "strides")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, channels_last: bool) -> None:
        self.shape, self.dtype, self.last = shape, dtype, channels_last
        lengths = (*shape[:2], *(1,) * (MAX_AXES - len(shape)), *shape[2:])
        strides, step = [0] * MAX_AXES, 1
        for axis in reversed(_LAYOUT[channels_last]):
            strides[axis] = step
            step *= lengths[axis]
        self.size = step * dtype.itemsize
        self.extent = struct.pack(f"{2 * MAX_AXES}q", *lengths, *strides)
        present = (*range(min(len(shape), 2)), *range(MAX_AXES - max(len(shape) - 2, 0), MAX_AXES))
        self.strides = tuple([strides[axis] * dtype.itemsize for axis in present])

    def empty(self) -> np.ndarray:
        block = memory.POOL.block(self.size) if self.size >= memory.SMALL else None
        a = np.ndarray(self.shape, self.dtype, block, 0, self.strides)
        if POISON:
            a.fill(np.nan if a.dtype.kind == "f" else np.iinfo(a.dtype).max)
        return a

    def ready(self, a: Any) -> Any:
        """a itself where a kernel can take it, else a copy of it. Raises ShapeError for one that was resized since."""
        if a.shape != self.shape:
            raise ShapeError(f"c: an array of shape {self.shape} that backward reads has become one of {a.shape}")
        if isinstance(a, np.ndarray) and a.strides == self.strides and a.dtype == self.dtype and a.flags.aligned:
            return a
        return a if isinstance(a, Uniforms) else dense(np.asarray(a, self.dtype), self.last)


@functools.lru_cache(4096)
def _slot(shape: tuple[int, ...], dtype: np.dtype, channels_last: bool) -> Slot:
    return Slot(shape, dtype, channels_last and len(shape) > 2)


def empty(shape: tuple[int, ...], dtype: Any, channels_last: bool) -> np.ndarray:
    """An array of logical shape (N, C, *S), in the asked memory layout."""
    return _slot(shape, np.dtype(dtype), channels_last).empty()


def _is_dense(a: np.ndarray, channels_last: bool) -> bool:
    """Whether a is dense in that layout and aligned."""
    return a.flags.aligned and (is_channels_last(a) if channels_last and a.ndim > 2 else a.flags.c_contiguous)


def _targets(op: Any, out: Any, slots: list[Slot], arrays: Any) -> list[np.ndarray]:
    """Where a kernel writes its results: to `out` where it may."""
    writable = [a if _may_write(op, a, arrays, slot.last) else None for a, slot in zip(out, slots, strict=False)]
    given = [*writable, *(None,) * (len(slots) - len(writable))]
    return [slot.empty() if a is None else a for a, slot in zip(given, slots, strict=True)]


def _may_write(op: Any, target: np.ndarray, arrays: Any, channels_last: bool) -> bool:
    """Whether a kernel may write its result straight to `target`: it is dense, and overlaps no argument, unless the op
    goes element by element and the two are one and the same."""
    return _is_dense(target, channels_last) and all(
        op.elementwise and (a is target or a.__array_interface__ == target.__array_interface__)
        for a in arrays
        if isinstance(a, np.ndarray) and np.may_share_memory(a, target)
    )


def dense(a: np.ndarray, channels_last: bool) -> np.ndarray:
    """a itself where it is dense in that layout and aligned, else a copy that is."""
    if _is_dense(a, channels_last):
        return a
    copy = empty(a.shape, a.dtype, channels_last)
    if a.size and a.dtype in _SUFFIX and _is_dense(a, not channels_last) and supported():
        _relayout(current_isa(), a.shape, a.dtype, channels_last)([copy, a])
    else:
        copy[...] = a
    return copy


# --- a call ------------------------------------------------------------------------------------------------------

_AXIS_FILL = {"kernel": 1, "stride": 1, "dilation": 1, "begin": 0, "end": 0, "size": 1, "out": 1}


def _c_value(value: Any) -> Any:
    """A parameter as cffi takes it: a Window as the fields of cc_window, filled up to three axes in front."""
    if not isinstance(value, Window):
        return value
    missing = 3 - len(value.size)
    return {name: (fill,) * missing + getattr(value, name) for name, fill in _AXIS_FILL.items()}


@functools.cache
def _found(isa: str, kernel: str) -> tuple[Any, Any, Any, Any, list[str]]:
    """The module's ffi, what gives the words from an address on, a kernel, its parameters' type and their names."""
    ffi, lib = _module(isa).ffi, _module(isa).lib
    function = getattr(lib, kernel)
    record = ffi.typeof(function).args[-2]
    names = [name for name, _ in record.item.fields] if record.item.kind == "struct" else []
    return ffi, functools.partial(ffi.cast, ffi.typeof("uintptr_t *")), function, record, names


class Launch:
    """A kernel of the current instruction set with its parameters and slots: all of a call but where the arrays lie.

    slots: of its arguments in their order; a list of them where it takes any number, None where one is left out.
    spare: the number of the argument that may be overwritten.
    """

    def __init__(self, kernel: str, dtype: np.dtype, params: Any, slots: list[Any], spare: int | None = None) -> None:
        self.ffi, self.words, self.function, record, fields = _found(current_isa(), f"{kernel}_{_SUFFIX[dtype]}")
        self.null = self.params = self.ffi.NULL
        if fields:
            self.params = self.ffi.new(record, {name: _c_value(getattr(params, name)) for name in fields})
        self.tensors = b""
        self.pointers: list[int | None] = []  # of the arguments, to the tensors
        for number, slot in enumerate(slots):
            self.pointers.append(None if slot is None else len(self.tensors) // _TENSOR.size)
            for each in slot if isinstance(slot, list) else [slot]:
                self.tensors += _TENSOR.pack(0, each.extent if each else b"", 0, 0, number == spare)
        self.places = range(0, len(self.tensors), _TENSOR.size)
        self.frames: list[tuple[bytearray, list[Any]]] = []  # those that no call uses

    def __call__(self, arrays: list[Any]) -> None:
        """Run it on one array per slot, dense as the slot says, or None for nothing there."""
        try:
            packed, given = self.frames.pop()
        except IndexError:
            packed, given = self._frame()
        for at, a in zip(self.places, arrays, strict=True):
            if isinstance(a, np.ndarray):
                _ADDRESS.pack_into(packed, at, self.words(id(a) + _HEAD)[0])
            elif a is not None:
                _KEY.pack_into(packed, at + _KEY_AT, *a.key)
        wanted = self.function(*given, self.null)
        if wanted:
            scratch: Any = memory.POOL.block(wanted)  # of the pool, so that a step's arrays take the place over
            if POISON:
                scratch.view(np.float64).fill(np.nan)
            self.function(*given, self.ffi.from_buffer(scratch))
        self.frames.append((packed, given))

    def _frame(self) -> tuple[bytearray, list[Any]]:
        """All tensors, and what the kernel is given but scratch: pointers to them, and its parameters."""
        packed = bytearray(self.tensors)
        tensors = self.ffi.from_buffer("cc_tensor[]", packed)
        return packed, [*(self.null if at is None else tensors + at for at in self.pointers), self.params]


@functools.lru_cache(256)
def _relayout(isa: str, shape: tuple[int, ...], dtype: np.dtype, channels_last: bool) -> Launch:
    slots = [_slot(shape, dtype, last) for last in (channels_last, not channels_last)]
    return Launch("relayout", dtype, None, slots)


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
        arguments.append(None if shape is None else _slot(shape, role.dtype or plan.dtype, last))
    kinds = plan.spec.results.values()
    return arguments, [_slot(shape, np.dtype(kind or plan.dtype), plan.channels_last) for shape, kind in kinds]


def _forward(plan: Any, arrays: Any) -> Forward:
    op, (arguments, results) = plan.op, _slots(plan)
    copied = [(i, slot) for i, slot in enumerate(arguments) if slot and slot.ready(arrays[i]) is not arrays[i]]
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
            read[i] = slot.ready(read[i])
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
        read = [slot and slot.ready(a) for slot, a in zip(known, (*dys, *saved), strict=True)]
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
        kernel = getattr(module.lib, f"cc_uniform_{_SUFFIX[np.dtype(dtype)]}")
        kernel(module.ffi.cast(module.ffi.typeof(kernel).args[0], u.ctypes.data), u.size, *key)
        return u

    def full(self, shape: tuple[int, ...], value: float, dtype: Any) -> np.ndarray:
        return np.full(shape, value, dtype)
