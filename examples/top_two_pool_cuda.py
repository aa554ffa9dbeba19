"""The same variant as CUDA kernels: two device functions and a line."""

import math
from typing import Any

from cnncore.backends.kernel import device
from cnncore.ops.pool_walk_cuda import count, number, over, variant


@over
def two_largest(state: Any, v: Any, tap: Any, w: Any, c: Any) -> Any:
    a, first, b, _ = state
    if v > a:
        return v, number(tap, w.g), a, first
    if v > b:
        return a, first, v, number(tap, w.g)
    return state


@device
def reduce(m: Any, w: Any, flag: int, p: Any) -> Any:
    real = m.x.dtype.type
    a, first, b, second = two_largest((real(-math.inf), -1, real(-math.inf), -1), m, w, 0)
    if count(w.o, w.g, 0) == 1:
        b, second = a, first
    return (a + b) / real(2), (a,), (first, second)


@device
def spread(m: Any, e: Any, flag: int, p: Any) -> Any:
    real, tap = m.dy.dtype.type, number(e.tap, e.g)
    if tap != m.indices[0][e.at] and tap != m.indices[1][e.at]:
        return real(0)
    return m.dy[e.at] / real(min(count(e.o, e.g, 0), 2))


TABLE = variant("top_two_pool", reduce, spread, indices=2)
