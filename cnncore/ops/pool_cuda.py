"""max_pool, relu_max_pool and avg_pool on the device: what they do with a window. The walk: pool_walk_cuda.py.
Definition: pool.py."""

from typing import Any

import numpy as np

from ..backends.kernel import device
from .pool_walk_cuda import Inputs, Link, Saved, Window, count, element, number, over, peak, variant, winner_spread

# --- max_pool, relu_max_pool; backward is winner_spread ---


@device
def itself(v: Any) -> Any:
    return v


largest: Any = peak(itself)


@device
def max_reduce(m: Inputs, w: Window, flag: int, p: Any) -> Any:
    best, won = largest((element(m, w, w.first), number(w.first, w.g)), m, w, 0)
    return best, (best,), (won,)


@device
def relu_max_reduce(m: Inputs, w: Window, flag: int, p: Any) -> Any:
    best, won = largest((element(m, w, w.first), number(w.first, w.g)), m, w, 0)
    if best <= 0:
        best, won = m.x.dtype.type(0), -1
    return best, (best,), (won,)


# --- avg_pool; flag: count_include_pad ---


@over
def sum_of(total: Any, v: Any, tap: Any, w: Window, c: Any) -> Any:
    return total + v


@device
def avg_reduce(m: Inputs, w: Window, flag: int, p: Any) -> Any:
    real = m.x.dtype.type
    mean = real(sum_of(np.float64(0), m, w, 0)) / real(count(w.o, w.g, flag))
    return mean, (mean,), (-1,)


@device
def avg_spread(m: Saved, e: Link, flag: int, p: Any) -> Any:
    return m.dy[e.at] / m.dy.dtype.type(count(e.o, e.g, flag))


TABLE = {
    **variant("max_pool", max_reduce, winner_spread),
    **variant("relu_max_pool", relu_max_reduce, winner_spread),
    **variant("avg_pool", avg_reduce, avg_spread, flag="count_include_pad"),
}
