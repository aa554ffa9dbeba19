"""Training that goes on asks for no memory: not a buffer of 4 KiB or more, in Python or in C."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from engines import NATIVE

COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
SOURCE = Path(__file__).parent / "allocations" / "count.c"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="counts through LD_PRELOAD"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C compiler"),
    pytest.mark.skipif(not NATIVE, reason="the C kernels are not built"),
]

# Prints how many large buffers each step asked for: `fit` calls the schedule before every step. The loader works in the
# same thread here, so that every step finds the same memory in use.
PROGRAM = """
import contextlib, ctypes, sys
from concurrent.futures import Future
import numpy as np
import cnncore as cc
from cnncore import layers as ly, loader
from cnncore.optim import SGD, Adam
from cnncore.train import Trainer

large = ctypes.CDLL(None).cc_large
large.restype = ctypes.c_long
net, optimizer, shape = {
    "lenet": (cc.models.lenet(), SGD, (1, 28, 28)),
    "nin": (cc.models.network_in_network(), SGD, (3, 16, 16)),
    "mixed": (ly.Sequential(
        ly.Branches(ly.Conv2d(3, 8, 3, padding=1), ly.Conv2d(3, 8, 1)), ly.Tanh(), ly.LocalResponseNorm(),
        ly.HeteroPool2d({"max": 8, "stochastic": 8}, 2), ly.Maxout2d(2), ly.Flatten(), ly.Linear(8 * 64, 10),
    ), Adam, (3, 16, 16)),
}[sys.argv[1]]
counts = []

class Here(contextlib.nullcontext):
    def __init__(self, **settings):
        super().__init__(self)

    def submit(self, make, *args):
        done = Future()
        done.set_result(make(*args))
        return done

def schedule(lr, epoch):
    counts.append(large())
    return lr

loader.ThreadPoolExecutor = Here
rng = np.random.default_rng(0)
x, y = rng.standard_normal((16 * 16, *shape), np.float32), rng.integers(0, 10, 16 * 16)
Trainer(net, optimizer(net, 1e-3), schedule, quiet=True).fit((x, y), epochs=1, batch_size=16)
print(*np.diff(counts))
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    library = tmp_path_factory.mktemp("count") / "count.so"
    subprocess.run([COMPILER, "-O1", "-shared", "-fPIC", SOURCE, "-o", library, "-ldl"], check=True)
    return str(library)


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("name", ["lenet", "nin", "mixed"])
def test_a_steady_training_step_asks_for_no_large_buffer(counter, name, threads):
    there = os.environ.get("LD_PRELOAD", "")
    environment = {**os.environ, "LD_PRELOAD": f"{there} {counter}".strip(), "CNNCORE_NUM_THREADS": threads}
    environment["PYTHONMALLOC"] = "malloc"  # else the interpreter takes memory for many small objects at once
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, name], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    counts = [int(count) for count in run.stdout.split()]
    assert len(counts) == 15 and counts[0] > 0, "the counter does not count"
    assert counts[6:] == [0] * 9
