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
from typing import NamedTuple

import numpy as np

SLACK = 1.5  # how much may be held, over the most that was in use at once, before memory goes back to the system
SMALL = 4096  # bytes; smaller arrays are NumPy's own
# Where arrays may begin. A load waits for an earlier store that has the same last 12 bits of its address, as if it read
# what that one writes. So an array must not begin 16 to 256 bytes behind another one, but for whole pages: of a cache
# line, relu takes 1.25 times as long (in cache, Zen 4). NumPy's own arrays, if large, begin 16 bytes behind a page.
ALIGN = 1024


class Block(np.ndarray):
    """Bytes that an array refers to as its base. (A class of its own: where a view and what it is made from are of one
    class, NumPy has the view refer to the base of the other instead. So would arrays, and no block would be in use.)"""

    __slots__ = ()


class Segment(NamedTuple):
    """Memory from the operating system."""

    address: int
    size: int
    memory: np.ndarray  # a Block, from there on


class MemoryPool:
    """Blocks of memory, cut and joined within segments. Safe for threads."""

    def __init__(self) -> None:
        self.returned: deque[weakref.ref[Block]] = deque()  # ties of blocks whose arrays are gone
        # id of a tie -> the tie, address, size and segment of a block in use
        self._places: dict[int, tuple[weakref.ref[Block], int, int, Segment]] = {}
        self.lock = threading.Lock()
        self._free: list[tuple[int, int, Segment]] = []  # (size, address, segment) of the blocks that wait, sorted
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
        self.block(0)
        return self._used

    def watch(self) -> int:
        """Begin `mark` anew; returns the bytes in use."""
        self.mark = self.used
        return self.mark

    def block(self, size: int) -> Block | None:
        """So many bytes, in whole multiples of ALIGN; None of none. Raises MemoryError. After Ctrl-C in the middle the
        waiting blocks are lost, rather than one of them given twice."""
        size += -size % ALIGN
        with self.lock:
            try:
                place = self._settle(size) if self.returned else None
                if not size:
                    return None
                address, segment = place or self._take(size)
                block = Block((size,), np.uint8, segment.memory, address - segment.address)
                # When the block dies, the deque's `append` is called. A `__del__` or any other function in Python would
                # do, but Ctrl-C may arrive while it runs, and what is raised in there is lost.
                tie = weakref.ref(block, self.returned.append)
                self._places[id(tie)] = tie, address, size, segment
                self._used += size
                if self._used > self.mark:
                    self.mark, self.most = self._used, max(self.most, self._used)
                return block
            except KeyboardInterrupt:
                self._free, self._sizes, self._ends = [], {}, {}
                raise

    def _settle(self, size: int) -> tuple[int, Segment] | None:
        """Take back what was returned, but for a block of just this size: that one is what is asked for."""
        found = None
        while self.returned:
            known = self._places.pop(id(self.returned.popleft()), None)
            if known is None:  # Ctrl-C came before it was written down
                continue
            _, address, freed, segment = known
            self._used -= freed
            if found is None and freed == size:
                found = address, segment
            else:
                self._add(address, freed, segment)
                if self.held > SLACK * self.most:
                    self._shrink(SLACK * self.most)
        return found

    def _take(self, size: int) -> tuple[int, Segment]:
        """A block for use."""
        at = bisect.bisect_left(self._free, (size,))
        if at == len(self._free):
            most = SLACK * max(self.most, self._used + size) - size
            if self.held > most:
                self._shrink(most)
            return self._grow(size)
        whole, address, segment = self._free[at]
        self._remove(address)
        if whole > size:
            self._add(address + size, whole - size, segment)
        return address, segment

    def _grow(self, size: int) -> tuple[int, Segment]:
        owner = Block((size + ALIGN,), np.uint8)  # ALIGN more: aligned, and never the neighbour of another segment
        address = int(owner.__array_interface__["data"][0])
        start = -address % ALIGN
        segment = self._segments[address + start] = Segment(address + start, size, owner[start:])
        self.held += size
        self.fresh += 1
        return segment.address, segment

    def _shrink(self, limit: float) -> None:
        """Let segments go that are not in use, the largest first, until no more than `limit` is held."""
        while self.held > limit:
            whole = next((address for size, address, segment in reversed(self._free) if size == segment.size), None)
            if whole is None:
                return
            del self._segments[whole]
            self.held -= self._remove(whole)

    def _add(self, address: int, size: int, segment: Segment) -> None:
        """Let a block wait, as one with those that it touches."""
        before, behind = self._ends.get(address), address + size
        if behind in self._sizes:
            size += self._remove(behind)
        if before is not None:
            address, size = before, size + self._remove(before)
        self._sizes[address] = size
        self._ends[address + size] = address
        bisect.insort(self._free, (size, address, segment))

    def _remove(self, address: int) -> int:
        """A waiting block's size; it waits no more."""
        size = self._sizes.pop(address)
        del self._ends[address + size]
        del self._free[bisect.bisect_left(self._free, (size, address))]
        return size


POOL = MemoryPool()
if hasattr(os, "register_at_fork"):  # a child finds the pool as no thread is in the middle of changing it
    os.register_at_fork(
        before=POOL.lock.acquire, after_in_parent=POOL.lock.release, after_in_child=POOL.lock.release
    )  # fmt: skip


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """np.empty, from the pool where that is worth it."""
    size = math.prod(shape) * dtype.itemsize
    return np.ndarray(shape, dtype, POOL.block(size) if size >= SMALL else None)
