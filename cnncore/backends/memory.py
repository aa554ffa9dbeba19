"""Memory that is used again: arrays are blocks of a pool, and return to it when nothing refers to them any more.

A block fresh from the operating system costs a page fault every 4 KiB, which for ops that only move memory is more than
their work; and a training step asks for the same sizes again and again, in the same order. So the pool keeps its
memory: an array is cut from the smallest block that is large enough, and joined with its free neighbours when it comes
back. An array is its caller's own: nothing takes it over while something refers to it.

Training holds 1.3 to 1.4 times its arrays' most in use at once: AlexNet 1.28, LeNet 1.30, NIN 1.40, VGG 1.41. (Before
contexts went layer by layer: 1.03 to 1.35; a pool of pieces that are never cut, by size, held 1.36 to 1.77 then.)
"""

from __future__ import annotations

import bisect
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

SLACK = 1.5  # how much may be held, over the most that was in use at once, before memory goes back to the system
SMALL = 4096  # bytes; smaller arrays are NumPy's own
# Where arrays may begin. A load waits for an earlier store that has the same last 12 bits of its address, as if it read
# what that one writes. So an array must not begin 16 to 256 bytes behind another one, but for whole pages: of a cache
# line, relu takes 1.25 times as long (in cache, Zen 4). NumPy's own arrays, if large, begin 16 bytes behind a page.
ALIGN = 1024
P = ParamSpec("P")
T = TypeVar("T")


class Segment(NamedTuple):
    """Memory from the operating system: its bytes, and the array that owns them."""

    size: int
    owner: np.ndarray


class Block:
    """What the arrays on a block refer to."""

    __slots__ = ("__array_interface__", "__weakref__")

    def __init__(self, address: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.__array_interface__ = {"version": 3, "typestr": dtype.str, "shape": shape, "data": (address, False)}


Tie = weakref.ref[Block]


class Pool:
    """Blocks of memory, cut and joined within segments. Safe for threads."""

    def __init__(self) -> None:
        self.returned: deque[Tie] = deque()  # of blocks whose arrays are gone
        self._places: dict[Tie, tuple[int, int]] = {}  # (address, size) of all blocks in use
        self.lock = threading.Lock()
        self._free: list[tuple[int, int]] = []  # (size, address) of the blocks that wait, sorted
        self._sizes: dict[int, int] = {}  # address -> size of the same blocks
        self._ends: dict[int, int] = {}  # where they end -> address
        self._segments: dict[int, Segment] = {}  # by address
        self._used = 0
        self.held = self.most = 0  # bytes: from the system, and the most that was ever in use
        self.mark = 0  # the most that was in use since `watch`
        self.fresh = 0  # how many segments were asked for

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._settled(lambda: self._used)

    def watch(self) -> int:
        """Begin `mark` anew; returns the bytes in use."""
        self.mark = self.used
        return self.mark

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A C-contiguous array that holds anything. Raises MemoryError."""
        return np.asarray(self.block(shape, dtype))

    def block(self, shape: tuple[int, ...], dtype: np.dtype) -> Block:
        """What such an array refers to."""
        return self._settled(self._make, shape, dtype)

    def _make(self, shape: tuple[int, ...], dtype: np.dtype) -> Block:
        size = -(-math.prod(shape) * dtype.itemsize // ALIGN) * ALIGN
        address = self._take(size)
        block = Block(address, shape, dtype)
        # When the block dies, the deque's `append` is called. A `__del__` or any other function in Python would do, but
        # Ctrl-C may arrive while it runs, and what is raised in there is lost.
        self._places[weakref.ref(block, self.returned.append)] = address, size
        self._used += size
        self.most, self.mark = max(self.most, self._used), max(self.mark, self._used)
        return block

    def _settled(self, change: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `change` returns, with the lock, and with what was returned taken back. After Ctrl-C in the middle of a
        change the waiting blocks are lost, rather than one of them given twice."""
        with self.lock:
            try:
                while self.returned:
                    address, size = self._places.pop(self.returned.popleft())
                    self._used -= size
                    self._add(address, size)
                self._shrink(SLACK * self.most)
                return change(*args, **kwargs)
            except KeyboardInterrupt:
                self._free, self._sizes, self._ends = [], {}, {}
                raise

    def _take(self, size: int) -> int:
        """The address of a block for use."""
        at = bisect.bisect_left(self._free, (size, 0))
        if at == len(self._free):
            self._shrink(SLACK * max(self.most, self._used + size) - size)
            return self._grow(size)
        whole, address = self._free[at]
        self._remove(address)
        if whole > size:
            self._add(address + size, whole - size)
        return address

    def _grow(self, size: int) -> int:
        owner = np.empty(size + ALIGN, np.uint8)  # ALIGN more: aligned, and never the neighbour of another segment
        address = owner.__array_interface__["data"][0]
        address += -address % ALIGN
        self._segments[address] = Segment(size, owner)
        self.held += size
        self.fresh += 1
        return int(address)

    def _shrink(self, limit: float) -> None:
        """Let segments go that are not in use, the largest first, until no more than `limit` is held."""
        while self.held > limit:
            for size, address in reversed(self._free):
                if address in self._segments and self._segments[address].size == size:
                    break
            else:
                return
            self._remove(address)
            del self._segments[address]
            self.held -= size

    def _add(self, address: int, size: int) -> None:
        """Let a block wait, as one with those that it touches."""
        before, behind = self._ends.get(address), address + size
        if behind in self._sizes:
            size += self._remove(behind)
        if before is not None:
            address, size = before, size + self._remove(before)
        self._sizes[address] = size
        self._ends[address + size] = address
        bisect.insort(self._free, (size, address))

    def _remove(self, address: int) -> int:
        """A waiting block's size; it waits no more."""
        size = self._sizes.pop(address)
        del self._ends[address + size]
        del self._free[bisect.bisect_left(self._free, (size, address))]
        return size


POOL = Pool()
if hasattr(os, "register_at_fork"):  # a child finds the pool as no thread is in the middle of changing it
    os.register_at_fork(
        before=POOL.lock.acquire, after_in_parent=POOL.lock.release, after_in_child=POOL.lock.release
    )  # fmt: skip


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """np.empty, from the pool where that is worth it."""
    dtype = np.dtype(dtype)
    return np.empty(shape, dtype) if math.prod(shape) * dtype.itemsize < SMALL else POOL.empty(shape, dtype)
