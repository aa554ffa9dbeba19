"""A pool of memory for arrays. The memory of an array returns to the pool when nothing refers to the array any more.

Memory that is new from the operating system costs a page fault every 4 KiB. For an op that only moves memory, these
page faults take longer than the op's own work. A training step asks for the same sizes again and again, in the same
order, so the pool keeps its memory. For a new array it takes the smallest free block that is large enough and cuts it
to size. A block that returns is joined with the free blocks on either side of it. While something refers to an array,
the pool gives its memory to nobody else.

During training the pool holds 1.3 to 1.4 times the most bytes that arrays use at once: 1.28 for AlexNet, 1.30 for
LeNet, 1.40 for NIN, 1.41 for VGG. docs/kernels/decisions.md has earlier designs of the pool.
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

SLACK = 1.5  # the pool holds at most this many times the most bytes that were in use at once
SMALL = 4096  # bytes; NumPy allocates smaller arrays
# Every block begins at a multiple of ALIGN bytes. The reason: to see whether a load reads what an earlier store writes,
# a processor compares only the last 12 bits of the two addresses. If they are equal, the load waits for the store. A
# loop over two arrays meets such pairs when one array begins 16 to 256 bytes behind the other (modulo 4 KiB, a page).
# At a distance of one cache line relu takes 1.25 times as long (arrays in cache, Zen 4). NumPy's own large arrays begin
# 16 bytes behind a page.
ALIGN = 1024


class Block(np.ndarray):
    """Bytes of one segment. An array of the pool has its block as its base, which shows that the block is in use.

    If Block were a plain ndarray, NumPy would make the segment the base of every array cut from it. The pool would then
    see no reference to the block and hand it out twice. (NumPy skips a base that has the class of the view itself.)
    """

    __slots__ = ()


class Segment(NamedTuple):
    """Memory from the operating system. The pool cuts blocks from it."""

    address: int
    size: int
    memory: np.ndarray  # a Block that begins at `address`


class MemoryPool:
    """Blocks of memory, cut and joined within segments. Several threads may use it at once."""

    def __init__(self) -> None:
        self.returned: deque[weakref.ref[Block]] = deque()  # weak references to blocks whose arrays are gone
        # blocks in use: id of the weak reference -> that reference, address, size and segment
        self._places: dict[int, tuple[weakref.ref[Block], int, int, Segment]] = {}
        self.lock = threading.Lock()
        self._free: list[tuple[int, int, Segment]] = []  # (size, address, segment) of the free blocks, sorted
        self._sizes: dict[int, int] = {}  # free blocks: address -> size
        self._ends: dict[int, int] = {}  # free blocks: address of their end -> address
        self._segments: dict[int, Segment] = {}  # by address
        self._used = 0
        self.held = self.most = 0  # bytes that the segments have; the most bytes that were ever in use at once
        self.mark = 0  # the most bytes in use at once since `watch`
        self.fresh = 0  # how many segments were taken from the operating system

    @property
    def used(self) -> int:
        """Bytes in use."""
        self.block(0)
        return self._used

    def watch(self) -> int:
        """Set `mark` to the bytes in use, and return it."""
        self.mark = self.used
        return self.mark

    def block(self, size: int) -> Block | None:
        """A block of `size` bytes, rounded up to a multiple of ALIGN; None where size is 0. Raises MemoryError.

        If Ctrl-C interrupts this function, the pool forgets all its free blocks. So it can never give one twice.
        """
        size += -size % ALIGN
        with self.lock:
            try:
                place = self._settle(size) if self.returned else None
                if not size:
                    return None
                address, segment = place or self._take(size)
                block = Block((size,), np.uint8, segment.memory, address - segment.address)
                # When the block dies, Python calls the deque's `append`. This callback must not be Python code, as
                # `__del__` is: Ctrl-C may arrive while it runs, and Python drops an exception that is raised there.
                reference = weakref.ref(block, self.returned.append)
                self._places[id(reference)] = reference, address, size, segment
                self._used += size
                if self._used > self.mark:
                    self.mark, self.most = self._used, max(self.most, self._used)
                return block
            except KeyboardInterrupt:
                self._free, self._sizes, self._ends = [], {}, {}
                raise

    def _settle(self, size: int) -> tuple[int, Segment] | None:
        """Take back the blocks that were returned. If one of them has exactly `size` bytes, return it instead."""
        found = None
        while self.returned:
            known = self._places.pop(id(self.returned.popleft()), None)
            if known is None:  # Ctrl-C came before the block was entered
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
        """Cut `size` bytes from the smallest free block that has them, or from a new segment."""
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
        owner = Block((size + ALIGN,), np.uint8)  # ALIGN bytes more: room to align it, and a gap to the next segment
        address = int(owner.__array_interface__["data"][0])
        start = -address % ALIGN
        segment = self._segments[address + start] = Segment(address + start, size, owner[start:])
        self.held += size
        self.fresh += 1
        return segment.address, segment

    def _shrink(self, limit: float) -> None:
        """Give unused segments back to the system, the largest first, until the pool holds at most `limit` bytes."""
        while self.held > limit:
            whole = next((address for size, address, segment in reversed(self._free) if size == segment.size), None)
            if whole is None:
                return
            del self._segments[whole]
            self.held -= self._remove(whole)

    def _add(self, address: int, size: int, segment: Segment) -> None:
        """Enter a free block, joined with the free blocks that it touches."""
        before, behind = self._ends.get(address), address + size
        if behind in self._sizes:
            size += self._remove(behind)
        if before is not None:
            address, size = before, size + self._remove(before)
        self._sizes[address] = size
        self._ends[address + size] = address
        bisect.insort(self._free, (size, address, segment))

    def _remove(self, address: int) -> int:
        """Remove a free block; returns its size."""
        size = self._sizes.pop(address)
        del self._ends[address + size]
        del self._free[bisect.bisect_left(self._free, (size, address))]
        return size


POOL = MemoryPool()
if hasattr(os, "register_at_fork"):  # fork while no thread changes the pool: the child gets a copy that is whole
    os.register_at_fork(
        before=POOL.lock.acquire, after_in_parent=POOL.lock.release, after_in_child=POOL.lock.release
    )  # fmt: skip


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """As np.empty; an array of SMALL bytes or more gets its memory from the pool."""
    size = math.prod(shape) * dtype.itemsize
    return np.ndarray(shape, dtype, POOL.block(size) if size >= SMALL else None)
