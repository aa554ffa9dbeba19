"""What no side can beat, measured as a side: loops that do nothing but what the op cannot do without.

    floor pass    reads and writes as many bytes: a sum and a fill, with plain stores ("stored"), and where a result is
                  so large that the engine would stream it, past the caches ("streamed"); the better counts
    floor fma     as many FLOPs, as fused multiply-adds in registers
    floor exp, log, draw    as many vector exponentials (of x <= 0, which need least), logarithms and words of
                            Philox, in the first cache

All take their turns with the op, on arrays of their own, so that they find caches and machine as it does. The largest
of pass, fma and the others is the limit; that of forward and backward together is the sum of both. The loops:
csrc/floors.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from turns import Calls

from cnncore.backends import native
from cnncore.bench.problems import Problem

STREAMED = 16 << 20  # bytes: cc_past_cache in csrc/simd.h

# (op, direction) -> one exponential, logarithm or uniform for every element of its input, or of its output, or for as
# many as the input has more than the output ("others")
MATH: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("sigmoid", "forward"): (("exp", "input"),),
    ("tanh", "forward"): (("exp", "input"),),
    ("softmax", "forward"): (("exp", "input"),),
    ("softmax_cross_entropy", "forward"): (("exp", "input"),),
    ("dropout", "forward"): (("draw", "input"),),
    ("stochastic_pool", "forward"): (("draw", "output"),),
    ("global_stochastic_pool", "forward"): (("draw", "output"),),
    # t^p of all elements of a unit but the largest, which has t = 1, and the sum's root, each by a logarithm and an
    # exponential; backward needs t^(p-1) and log t
    ("lp_unit", "forward"): (("exp", "others"), ("log", "others"), ("exp", "output"), ("log", "output")),
    ("lp_unit", "backward"): (("exp", "others"), ("log", "others"), ("exp", "output"), ("log", "output")),
}
FUNCTIONS = ("exp", "log", "draw")


@dataclass(frozen=True)
class Work:
    """What one call cannot do without."""

    read: int
    written: int
    flops: float = 0
    math: dict[str, int] = field(default_factory=dict)  # by FUNCTIONS


def work_of(problem: Problem, arrays: Any, ctx: Any) -> dict[str, Work]:
    """The work of forward and of backward."""
    forward, backward = problem.op.cost(ctx.spec, arrays, np.float32)
    drawn = [a for a in arrays if isinstance(a, np.ndarray)]
    read = sum(a.nbytes for a in drawn)
    written = sum(a.nbytes for a, d in zip(arrays, problem.op.differentiable(arrays), strict=True) if d)
    sizes = {"input": drawn[0].size, "output": int(np.prod(ctx.shape))}
    sizes["others"] = max(sizes["input"] - sizes["output"], 0)
    there = Work(read, forward.bytes - read, forward.flops, _math(problem.op.name, "forward", sizes))
    back = Work(backward.bytes - written, written, backward.flops, _math(problem.op.name, "backward", sizes))
    return {"forward": there, "backward": back}


def _math(op: str, direction: str, sizes: dict[str, int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for function, per in MATH.get((op, direction), ()):
        counts[function] = counts.get(function, 0) + sizes[per]
    return counts


def floors(works: dict[str, Work]) -> Calls:
    """The floors of every piece of work as sides: "floor forward pass stored"."""
    return {f"floor {part} {name}": call for part, work in works.items() for name, call in _floors(work).items()}


def _floors(work: Work) -> Calls:
    module = native.loaded()
    lib = module.lib
    to, of = module.ffi.from_buffer(_block(work.written)), module.ffi.from_buffer(_block(work.read))
    calls: Calls = {"pass stored": lambda: lib.cc_plain_pass_f32(to, work.written, of, work.read, 0)}
    if work.written >= STREAMED:
        calls["pass streamed"] = lambda: lib.cc_plain_pass_f32(to, work.written, of, work.read, 1)
    rounds = round(work.flops / lib.cc_peak_fma_f32(1))
    if rounds:
        calls["fma"] = lambda: lib.cc_peak_fma_f32(rounds)
    if work.math:
        counts = [work.math.get(name, 0) for name in FUNCTIONS]
        calls["+".join(work.math)] = lambda: lib.cc_math_pass_f32(*counts)
    return calls


def _block(size: int) -> np.ndarray:
    """`size` bytes that are really there, from the beginning of a cache line on."""
    raw = np.ones(size + 128, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size + 64]
