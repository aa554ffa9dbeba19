"""Memory that is used again: nobody's array is taken over, and a training step needs no new memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from cnncore.backends import memory
from cnncore.backends.memory import ALIGN, POOL, SLACK, SMALL, Pool, size_class


@given(st.integers(0, 2**40))
def test_a_size_class_wastes_an_eighth_at_most(size):
    found = size_class(size)
    assert found >= size and found % ALIGN == 0 and size_class(found) == found
    assert found - size <= max(size / 8, ALIGN)


@examples(50)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.integers(0, 20)), max_size=60))
def test_live_arrays_never_meet_and_no_more_is_held_than_was_used(steps):
    pool, alive, most = Pool(), [], 0
    for number, (make, size, which) in enumerate(steps):
        if make or not alive:
            a = pool.empty((size, 1000), np.dtype(np.float32))
            assert a.flags.c_contiguous and a.flags.writeable and a.ctypes.data % ALIGN == 0
            a.fill(number)
            alive.append((a[::2].T, number))  # a view keeps the whole piece
            del a
        else:
            alive.pop(which % len(alive))
        assert all((view == value).all() for view, value in alive)
        most = max(most, pool.used)
        assert pool.used >= sum(2 * view.nbytes for view, _ in alive) - 4000 * len(alive)
        assert pool.most == most and pool.used + pool.kept <= SLACK * most
    del alive[:]
    view = None  # noqa: F841
    assert pool.used == 0


def test_memory_is_taken_over_and_small_arrays_are_left_alone():
    pool = Pool()
    a = pool.empty((100, 100), np.dtype(np.float64))
    address = a.ctypes.data
    del a
    assert pool.empty((99, 101), np.dtype(np.float64)).ctypes.data == address and pool.fresh == 1
    fresh = POOL.fresh
    assert memory.empty((SMALL - 1,), np.uint8).flags.owndata and POOL.fresh == fresh


def test_what_cannot_be_had_raises_and_counts_nothing():
    pool = Pool()
    with pytest.raises(MemoryError):
        pool.empty((2**60,), np.dtype(np.uint8))
    assert (pool.used, pool.kept, pool.most, pool.fresh) == (0, 0, 0, 0)


def test_threads_do_not_share_arrays():
    pool, wrong = Pool(), []

    def work(number):
        for _ in range(300):
            a = pool.empty((2000,), np.dtype(np.int32))
            a.fill(number)
            if not (a == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and pool.used == 0
