"""One call of a C kernel: its arguments packed as csrc/kernels.h says, its scratch, and where arrays lie in memory."""

from __future__ import annotations

import functools
import struct
from typing import Any

import numpy as np

from ..errors import ShapeError
from . import memory, slots
from .library import _module, current_isa, supported
from .slots import MAX_AXES, Slot, Uniforms, empty, is_dense, slot_of

SUFFIX = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}
_TENSOR = struct.Struct(f"Q{2 * MAX_AXES * 8}s3Q")  # cc_tensor of csrc/kernels.h: data, shape and stride, key, spare
_ADDRESS, _KEY = struct.Struct("Q"), struct.Struct("2Q")
_KEY_AT = 8 + 2 * MAX_AXES * 8  # in cc_tensor


def _address_reader(words: Any) -> Any:
    """A function that gives the addresses of the first elements of arrays, 0 for what is none. `words(i)`: the machine
    words from address i on.

    NumPy's arrays are an object's head and then that address (PyArrayObject of its C API). Asked in Python, an array
    makes a dictionary of all it knows: with cold caches 25 us of a call and its backward, in a loop 4 of 24. Whether
    the address is there is tried on two arrays; where it is not, arrays are asked.
    """
    head = object.__basicsize__

    def read(arrays: list[Any]) -> list[int]:
        return [words(id(a) + head)[0] if isinstance(a, np.ndarray) else 0 for a in arrays]

    def ask(arrays: list[Any]) -> list[int]:
        return [a.__array_interface__["data"][0] if isinstance(a, np.ndarray) else 0 for a in arrays]

    whole = np.arange(6.0).reshape(2, 3)
    tried = [whole, whole[1:, 1:]]
    return read if read(tried) == ask(tried) else ask


@functools.cache
def _address(isa: str) -> Any:
    ffi = _module(isa).ffi
    return _address_reader(functools.partial(ffi.cast, ffi.typeof("uintptr_t *")))


@functools.cache
def _found(isa: str, kernel: str) -> tuple[Any, Any, Any, Any, list[str]]:
    """The module's ffi, what gives an array's address, a kernel, its parameters' type and their names."""
    ffi, lib = _module(isa).ffi, _module(isa).lib
    function = getattr(lib, kernel)
    record = ffi.typeof(function).args[-2]
    names = [name for name, _ in record.item.fields] if record.item.kind == "struct" else []
    return ffi, _address(isa), function, record, names


class Launch:
    """A kernel of an instruction set with its parameters and slots: all of a call but where the arrays lie.

    slots: of its arguments in their order; a list of them where it takes any number, None where one is left out.
    overwritten: the number of the argument that the kernel may overwrite.
    changing: whether a call may bring numbers of its own.
    """

    def __init__(
        self, isa: str, kernel: str, dtype: np.dtype, params: Any, slots: list[Any], overwritten: int | None = None,
        changing: bool = False,
    ) -> None:  # fmt: skip
        self.ffi, self.addresses, self.function, self.record, fields = _found(isa, f"{kernel}_{SUFFIX[dtype]}")
        self.null = self.ffi.NULL
        values = {name: getattr(params, name) for name in fields}
        self.values = {name: v.c_struct() if hasattr(v, "c_struct") else v for name, v in values.items()}
        self.changing = changing
        self.params = self.ffi.new(self.record, self.values) if self.values else self.null
        self.tensors = b""
        self.pointers: list[int | None] = []  # of the arguments, to the tensors
        for number, slot in enumerate(slots):
            self.pointers.append(None if slot is None else len(self.tensors) // _TENSOR.size)
            for each in slot if isinstance(slot, list) else [slot]:
                self.tensors += _TENSOR.pack(0, each.extent if each else b"", 0, 0, number == overwritten)
        self.places = range(0, len(self.tensors), _TENSOR.size)
        self.frames: list[tuple[bytearray, list[Any]]] = []  # those that no call uses

    def __call__(self, arrays: list[Any], numbers: dict[str, float] | None = None) -> None:
        """Run it on one array per slot, dense as the slot says, or None for nothing there."""
        try:
            packed, given = self.frames.pop()
        except IndexError:
            packed, given = self._frame()
        for at, a, address in zip(self.places, arrays, self.addresses(arrays), strict=True):
            if address:
                _ADDRESS.pack_into(packed, at, address)
            elif isinstance(a, Uniforms):
                _KEY.pack_into(packed, at + _KEY_AT, *a.key)
        for name, value in (numbers or {}).items():
            setattr(given[-1], name, value)
        wanted = self.function(*given, self.null)
        if wanted:
            scratch: Any = memory.POOL.block(wanted)  # of the pool, so that a step's arrays take the place over
            if slots.POISON:
                scratch.view(np.float64).fill(np.nan)
            self.function(*given, self.ffi.from_buffer(scratch))
        self.frames.append((packed, given))

    def _frame(self) -> tuple[bytearray, list[Any]]:
        """All tensors, and what the kernel is given but scratch: pointers to them, and its parameters."""
        packed = bytearray(self.tensors)
        tensors = self.ffi.from_buffer("cc_tensor[]", packed)
        params = self.ffi.new(self.record, self.values) if self.changing else self.params  # a call's own numbers
        return packed, [*(self.null if at is None else tensors + at for at in self.pointers), params]


@functools.lru_cache(256)
def _relayout(isa: str, shape: tuple[int, ...], dtype: np.dtype, channels_last: bool) -> Launch:
    kinds = [slot_of(shape, dtype, layout) for layout in (channels_last, not channels_last)]
    return Launch(isa, "relayout", dtype, None, kinds)


def dense(a: np.ndarray, channels_last: bool) -> np.ndarray:
    """a itself where it is dense in that layout and aligned, else a copy that is."""
    if is_dense(a, channels_last):
        return a
    copy = empty(a.shape, a.dtype, channels_last)
    if a.size and a.dtype in SUFFIX and is_dense(a, not channels_last) and supported():
        _relayout(current_isa(), a.shape, a.dtype, channels_last)([copy, a])
    else:
        copy[...] = a
    return copy


def ready(to: Slot, a: Any) -> Any:
    """a itself where a kernel can take it, else a copy of it. Raises ShapeError for one that was resized since."""
    if a.shape != to.shape:
        raise ShapeError(f"c: an array of shape {to.shape} that backward reads has become one of {a.shape}")
    if isinstance(a, np.ndarray) and a.strides == to.strides and a.dtype == to.dtype and a.flags.aligned:
        return a
    return a if isinstance(a, Uniforms) else dense(np.asarray(a, to.dtype), to.channels_last)
