"""How long a call takes, and what this machine could do at best."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends import select

COPY_BYTES = 128 << 20  # far beyond any cache
MATRIX = 1024


@dataclass(frozen=True)
class Time:
    """Seconds of one call."""

    best: float
    median: float


@dataclass(frozen=True)
class Peaks:
    """The machine's limits: fused multiply-adds in GFLOP/s (float32, every thread), copying in GB/s.

    A copy counts the bytes read and the bytes written. `source` says how they were found: "c", loops that do nothing
    else, or "numpy", a matrix product and a plain copy, which fall short of the true limits.
    """

    fma: float
    copy: float
    source: str


def once(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def timed(call: Callable[[], Any], seconds: float) -> Time:
    """Time `call` for about `seconds`, after one call that warms up; one that takes longer than that is its own result.

    The best is what the kernel can do, the median what it did on this machine with its other load.
    """
    first = once(call)
    if first > seconds:
        return Time(first, first)
    samples = [once(call)]
    while sum(samples) < seconds:
        samples.append(once(call))
    return Time(min(samples), float(np.median(samples)))


def peaks(seconds: float = 0.3) -> Peaks:
    """Measure this machine; takes about three times `seconds`."""
    source, target = np.ones(COPY_BYTES, np.uint8), np.ones(COPY_BYTES, np.uint8)  # all pages there
    if select.why_not("c") is None:
        c = select.load("c")
        rounds = 1 << 20
        flops = c.peak_fma(rounds)
        fma = timed(lambda: c.peak_fma(rounds), seconds).best
        copy = timed(lambda: c.peak_copy(target, source), seconds).best
        return Peaks(flops / fma / 1e9, 2 * COPY_BYTES / copy / 1e9, "c")
    a = np.ones((MATRIX, MATRIX), np.float32)
    fma = timed(lambda: a @ a, seconds).best
    copy = timed(lambda: np.copyto(target, source), seconds).best
    return Peaks(2 * MATRIX**3 / fma / 1e9, 2 * COPY_BYTES / copy / 1e9, "numpy")
