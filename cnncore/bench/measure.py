"""How long a call takes, and what this machine could do at best."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends import native, select

COPY_BYTES = 128 << 20  # far beyond any cache
MATRIX = 1024
ROUNDS = 1 << 18  # a few milliseconds


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
    if select.why_not("c") is None:
        return _peaks_in_c(seconds)
    source, target = _block(), _block()
    a = np.ones((MATRIX, MATRIX), np.float32)
    product = timed(lambda: a @ a, seconds).best
    copy = timed(lambda: np.copyto(target, source), seconds).best
    return Peaks(2 * MATRIX**3 / product / 1e9, 2 * COPY_BYTES / copy / 1e9, "numpy")


def _peaks_in_c(seconds: float) -> Peaks:
    """With the loops of csrc/floors.c, in the instruction set and on the threads that the kernels use."""
    module = native.loaded()
    source, target = module.ffi.from_buffer(_block()), module.ffi.from_buffer(_block())
    flops = module.lib.cc_peak_fma_f32(ROUNDS)
    fma = timed(lambda: module.lib.cc_peak_fma_f32(ROUNDS), seconds).best
    copy = timed(lambda: module.lib.cc_plain_pass_f32(target, COPY_BYTES, source, COPY_BYTES, 1), seconds).best
    return Peaks(flops / fma / 1e9, 2 * COPY_BYTES / copy / 1e9, "c")


def _block() -> np.ndarray:
    """COPY_BYTES bytes, written once so that every page is there, and aligned to a cache line for streaming stores."""
    raw = np.ones(COPY_BYTES + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + COPY_BYTES]
