"""What kernels take and give: dense arrays of a shape, a dtype and a memory layout, and the memory that they lie in."""

from __future__ import annotations

import functools
import struct
from typing import Any, NamedTuple

import numpy as np

from . import memory

MAX_AXES = 5  # (N, C, D, H, W)
POISON = False  # for tests: fill results and scratch with NaN before every call, so that what is not written shows
_LAYOUT = {False: (0, 1, 2, 3, 4), True: (0, 2, 3, 4, 1)}  # axes from the slowest to the fastest


def is_channels_last(a: np.ndarray) -> bool:
    """Whether a (N, C, *S) array is dense in memory as (N, *S, C). One channel alone lies so, too, and is taken so:
    most kernels are faster channels last."""
    return 3 <= a.ndim <= MAX_AXES and a.transpose((0, *range(2, a.ndim), 1)).flags.c_contiguous


def is_dense(a: np.ndarray, channels_last: bool) -> bool:
    """Whether a is dense in that layout and aligned."""
    return a.flags.aligned and (is_channels_last(a) if channels_last and a.ndim > 2 else a.flags.c_contiguous)


class Uniforms(NamedTuple):
    """The uniforms that a Philox key stands for, where an array of them would stand: the kernel draws them."""

    key: tuple[int, int]
    shape: tuple[int, ...]


class Slot:
    """What a kernel takes or gives: a dense array of one shape, dtype and layout, wherever it lies."""

    __slots__ = ("channels_last", "dtype", "extent", "shape", "size", "strides")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, channels_last: bool) -> None:
        channels_last = channels_last and len(shape) > 2
        self.shape, self.dtype, self.channels_last = shape, dtype, channels_last
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


slot_of = functools.lru_cache(4096)(Slot)


def empty(shape: tuple[int, ...], dtype: Any, channels_last: bool) -> np.ndarray:
    """An array of logical shape (N, C, *S), in the asked memory layout."""
    return slot_of(shape, np.dtype(dtype), channels_last).empty()
