"""Memory that is used again: nobody's array is taken over, and a training step needs no new memory."""

from __future__ import annotations

import itertools
import linecache
import math
import sys

import numpy as np
import pytest
from engines import at_once
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from cnncore.backends import memory
from cnncore.backends.memory import ALIGN, POOL, SLACK, SMALL, MemoryPool


def empty(pool, *shape, dtype=np.uint8):
    return np.ndarray(shape, dtype, pool.block(math.prod(shape) * np.dtype(dtype).itemsize))


@examples(50)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.integers(0, 20)), max_size=60))
def test_live_arrays_never_meet_and_memory_that_is_not_used_goes(steps):
    pool, alive, most = MemoryPool(), [], 0
    for number, (make, size, which) in enumerate(steps):
        if make or not alive:
            a = empty(pool, size, 1000, dtype=np.float32)
            assert a.flags.c_contiguous and a.flags.writeable and a.ctypes.data % ALIGN == 0
            a.fill(number)
            alive.append((a[::2].T, number))  # a view keeps the whole block
            del a
        else:
            alive.pop(which % len(alive))
        assert all((view == value).all() for view, value in alive)
        most = max(most, pool.used)
        assert pool.used >= sum(2 * view.nbytes for view, _ in alive) - 4000 * len(alive)
        assert pool.most == most
        assert pool.held <= SLACK * most or not unused_segments(pool)
        assert sum(pool._sizes.values()) == pool.held - pool.used == sum(size for size, *_ in pool._free)
        assert not set(pool._sizes) & set(pool._ends)  # neighbours are joined
    del alive[:]
    assert pool.used == 0 and pool.held <= SLACK * most
    assert len(unused_segments(pool)) == len(pool._segments) == len(pool._free)


def unused_segments(pool):
    return [at for at, segment in pool._segments.items() if pool._sizes.get(at) == segment.size]


def test_memory_is_cut_and_joined():
    pool = MemoryPool()
    whole = empty(pool, 100, 128, dtype=np.float64)
    address = whole.ctypes.data
    del whole
    first, second = (empty(pool, 6400, dtype=np.float64) for _ in range(2))
    assert sorted(a.ctypes.data for a in (first, second)) == [address, address + 51200] and pool.fresh == 1
    del first, second
    assert empty(pool, 12800, dtype=np.float64).ctypes.data == address and pool.fresh == 1


def test_the_smallest_block_that_is_large_enough_is_taken():
    pool = MemoryPool()
    large, small = empty(pool, 9000), empty(pool, 5000)
    place = small.ctypes.data
    del large, small
    assert empty(pool, 4992).ctypes.data == place


def test_small_arrays_are_left_alone():
    fresh = POOL.fresh
    assert memory.empty((SMALL - 1,), np.dtype(np.uint8)).flags.owndata and POOL.fresh == fresh


@pytest.mark.parametrize("line", range(1, 120, 3))
def test_ctrl_c_anywhere_gives_no_memory_twice_and_is_not_lost(line):
    """KeyboardInterrupt before the n-th line that runs in memory.py: it arrives, and arrays that live never meet."""
    pool, left, caught = MemoryPool(), line, 0

    def interrupt(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != memory.__file__:
            return None
        if event != "line" or "with self" in linecache.getline(memory.__file__, frame.f_lineno):
            return interrupt  # (Python takes no signal between a lock's two methods and their statement)
        left -= 1
        if left == 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return interrupt

    def make(alive, number):
        alive.append((empty(pool, 5000 + 64 * (number % 3)), number))
        alive[-1][0].fill(number)

    alive: list = []
    before = sys.gettrace()
    for number in range(20):
        sys.settrace(interrupt if number == 3 else before)
        try:
            make(alive, number)
            del alive[number % 2 : 1]
        except KeyboardInterrupt:
            caught += 1
        finally:
            sys.settrace(before)
    assert caught == (left == 0) and not pool.lock.locked()
    assert all((a == number).all() for a, number in alive)
    places = sorted((a.ctypes.data, a.nbytes) for a, _ in alive)
    assert all(at + size <= behind for (at, size), (behind, _) in itertools.pairwise(places))


def test_what_cannot_be_had_raises_and_counts_nothing():
    pool = MemoryPool()
    with pytest.raises(MemoryError):
        pool.block(2**60)
    assert (pool.used, pool.held, pool.most, pool.fresh) == (0, 0, 0, 0)


def test_threads_do_not_share_arrays():
    pool, wrong = MemoryPool(), []

    def work(number):
        for _ in range(300):
            a = empty(pool, 2000, dtype=np.int32)
            a.fill(number)
            if not (a == number).all():
                wrong.append(number)

    at_once(work, range(4))
    assert not wrong and pool.used == 0
