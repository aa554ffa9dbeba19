"""Several Python threads, and a forked child: both compute what one process alone does."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading

import numpy as np
import pytest
from engines import NATIVE, at_once

import cnncore as cc
from cnncore import layers as ly
from cnncore.backends import native
from cnncore.ops.steps import sgd_step
from cnncore.optim import SGD

pytestmark = pytest.mark.skipif(not NATIVE, reason="the C kernels are not built")
STEPS = 6


def train(seed, ready=lambda: None):
    """A few steps of a small network; all that it has learnt. Its maps are large enough to be shared out to threads."""
    net = ly.Sequential(
        ly.Conv2d(3, 32, 5, padding=2, seed=seed), ly.ReLU(), ly.MaxPool2d(2), ly.LocalResponseNorm(),
        ly.Conv2d(32, 16, 3, padding=1, seed=seed + 1), ly.ReLU(), ly.Flatten(), ly.Dropout(0.4, seed=seed),
        ly.Linear(16 * 8 * 8, 10, seed=seed + 2),
    )  # fmt: skip
    rng, optimizer = np.random.default_rng(seed), SGD(net, 0.01, 0.9)
    ready()
    for _ in range(STEPS):
        x, labels = rng.standard_normal((16, 3, 16, 16), np.float32), rng.integers(0, 10, 16)
        net.zero_grad()
        y, context = net.apply(x)
        context.backward(cc.ops.softmax_cross_entropy(y, labels)[1].backward()[0], dx=False)
        optimizer.step()
    return net.state_dict()


@pytest.fixture
def two_threads():
    """OpenMP on two threads, and the process's own setting again afterwards."""
    with native.use_threads(2):
        yield


def assert_same(found, expected):
    for name, a in expected.items():
        np.testing.assert_array_equal(found[name], a, err_msg=name)


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 32, 33, 40])
@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 31, 70])
def test_every_piece_is_done_once_by_any_number_of_threads(threads: int, pieces: int) -> None:
    """In place, so that a piece which two threads take shows. A loop has 32 shares, a piece 16384 elements (simd.h)."""
    count = 16384 * pieces - 5
    value, velocity = np.zeros(count, np.float32), np.arange(count, dtype=np.float32)
    with native.use_threads(threads):
        for _ in range(5):
            velocity[...] = np.arange(count)
            value[...] = 0
            sgd_step(
                value, np.ones(count, np.float32), velocity, lr=1, momentum=0.5, backend="c", out=(value, velocity)
            )
            assert np.array_equal(velocity, 0.5 * np.arange(count, dtype=np.float32) + 1)
            assert np.array_equal(value, -velocity)


def test_two_networks_in_two_threads_learn_what_they_learn_alone(two_threads):
    alone, together, start = [train(seed) for seed in (1, 2)], {}, threading.Barrier(2)

    def work(seed):
        together[seed] = train(seed, start.wait)

    at_once(work, (1, 2))
    for seed, expected in zip((1, 2), alone, strict=True):
        assert_same(together[seed], expected)


def test_kernels_let_other_threads_run():
    """While one thread is inside a kernel, another goes on: a counter moves between the kernel's start and end."""
    x, w = (np.ones(shape, np.float32) for shape in ((16, 64, 64, 64), (64, 64, 3, 3)))
    inside, moved = threading.Event(), []

    def work():
        inside.set()
        cc.ops.conv(x, w, padding=1, algorithm="direct", backend="c")
        inside.clear()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e3)  # nobody is made to give the interpreter up: only a kernel lets go of it
    try:
        thread = threading.Thread(target=work)
        thread.start()
        inside.wait()
        while inside.is_set():
            moved.append(len(moved))
            threading.Event().wait(1e-4)
        thread.join()
    finally:
        sys.setswitchinterval(before)
    assert moved


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of forking a process with threads
def test_a_forked_child_trains_after_its_parent_used_openmp(two_threads):
    expected = train(3)  # libgomp's threads are there now, and would be waited for in the child
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()

    def child():
        there.send((native.get_threads(), train(3)))

    process = fork.Process(target=child)
    process.start()
    try:
        assert here.poll(120), "the child hangs"
        threads, found = here.recv()
    finally:
        process.kill()
        process.join()
    assert threads == 1
    assert_same(found, expected)
    assert native.get_threads() == 2  # the parent goes on as before
    assert_same(train(3), expected)
