"""Memory that is used again: arrays come from blocks that return to a pool when the last array on them is gone.

A block fresh from the operating system costs a page fault every 4 KiB, which for ops that only move memory is more than
their work; and a training step asks for the same sizes again and again. So a block goes back to the pool, and the next
array of its size takes it over. What the pool keeps and what is in use never exceed SLACK times the most that was in
use at once.

An array is its caller's own: its block is taken over when nothing refers to it any more.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

SLACK = 1.5  # how much may be held, over the most that was in use at once: LeNet's training needs 1.28
SMALL = 4096  # bytes; smaller arrays are NumPy's own
ALIGN = 64  # a cache line, and the widest vector


class Piece(NamedTuple):
    """Memory: its first aligned address, its bytes, and the array that owns it."""

    address: int
    size: int
    owner: np.ndarray


class _Block:
    """What the arrays on a piece refer to. When it dies, the piece goes back to the pool."""

    __slots__ = ("__array_interface__", "_piece", "_pool")

    def __init__(self, pool: Pool, piece: Piece, shape: tuple[int, ...], dtype: Any) -> None:
        self._pool, self._piece = pool, piece
        self.__array_interface__ = {
            "version": 3, "typestr": dtype.str, "shape": shape, "data": (piece.address, False),
        }  # fmt: skip

    def __del__(self) -> None:
        self._pool.give_back(self._piece)


class Pool:
    """Pieces of memory by size. Safe for threads, and for finalisers, which run in the middle of anything."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[Piece]] = defaultdict(list)
        self._lock = threading.RLock()
        self.used = self.kept = self.most = 0  # bytes: in use, waiting, and the most that was ever in use
        self.fresh = 0  # how many pieces were new

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A C-contiguous array that holds anything. Raises MemoryError."""
        size = size_class(math.prod(shape) * dtype.itemsize)
        with self._lock:
            waiting = self._free[size]
            if waiting:
                piece = waiting.pop()
                self.kept -= size
            else:
                piece = _new(size)
                self.fresh += 1
            self.used += size
            self.most = max(self.most, self.used)
            self._shrink()
        return np.asarray(_Block(self, piece, shape, dtype))

    def give_back(self, piece: Piece) -> None:
        with self._lock:
            self.used -= piece.size
            self.kept += piece.size
            self._free[piece.size].append(piece)

    def _shrink(self) -> None:
        """Let waiting pieces go, the largest first, until no more is held than SLACK allows."""
        while self.kept and self.used + self.kept > SLACK * self.most:
            size = max(size for size, waiting in self._free.items() if waiting)
            self._free[size].pop()
            self.kept -= size


def _new(size: int) -> Piece:
    owner = np.empty(size + ALIGN, np.uint8)
    address = owner.__array_interface__["data"][0]
    return Piece(address + -address % ALIGN, size, owner)


def size_class(size: int) -> int:
    """The next of eight sizes per power of two, so that at most an eighth is wasted."""
    step = max(1 << max(size - 1, 0).bit_length() >> 4, ALIGN)
    return -(-size // step) * step


POOL = Pool()


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """np.empty, from the pool where that is worth it."""
    dtype = np.dtype(dtype)
    return np.empty(shape, dtype) if math.prod(shape) * dtype.itemsize < SMALL else POOL.empty(shape, dtype)
