"""First weights, from a seed. Uniform ones: they need no log or cos, so a seed gives the same bits on every machine.

he       uniform in [-a, a], a = sqrt(6 / fan_in): variance 2 / fan_in keeps the activations' size through a ReLU
         (gain sqrt 2; He et al. 2015; PyTorch's kaiming_uniform_ with nonlinearity="relu")
xavier   uniform in [-a, a], a = sqrt(6 / (fan_in + fan_out)): for layers that no ReLU follows (Glorot & Bengio 2010)

fan_in = the elements of one filter, w[0]; fan_out = filters times elements of one window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..backends.philox import philox4x32, uniform, words
from ..errors import CnncoreError, DTypeError
from ..ops import geometry
from ..ops.checks import check_key
from ..ops.roles import FLOATS
from .parameter import Parameter

INITS = {
    "he": lambda fan_in, fan_out: math.sqrt(6 / fan_in),
    "xavier": lambda fan_in, fan_out: math.sqrt(6 / (fan_in + fan_out)),
}


def seeds(seed: int) -> Iterator[int]:
    """Seeds for the layers of a network, all different, from one: `s = seeds(0); Conv2d(..., seed=next(s))`.

    Drawn from the last counter of the key, so they meet no draw that counts from 0.
    """
    seed, last = check_key("seeds", (seed, 2**64 - 1))
    number = 0
    while True:
        low, high = words(number)
        block = philox4x32(np.array([low, high, *words(last)], np.uint32), np.array(words(seed)))
        yield int(block[0]) | int(block[1]) << 32
        number += 1


_unnamed = seeds(0)


def seed_or_next(seed: int | None) -> int:
    """A layer's seed. A layer without one gets the next of a row that starts with the process: no two layers are born
    equal, and the same program gives the same weights."""
    return next(_unnamed) if seed is None else check_key("seed", (seed, 0))[0]


def draw(who: str, shape: tuple[int, ...], init: str, seed: int | None, dtype: Any) -> Parameter:
    """A weight (out, in, *kernel). Raises CnncoreError, ShapeError, DTypeError."""
    if init not in INITS:
        raise CnncoreError(f"{who}: init must be one of {', '.join(INITS)}; got {init!r}")
    if dtype not in FLOATS:
        raise DTypeError(f"{who}: dtype must be float32 or float64, got {dtype!r}")
    geometry.elements(who, shape)
    window = math.prod(shape[2:])
    bound = INITS[init](shape[1] * window, shape[0] * window)
    u = uniform((seed_or_next(seed), 0), shape, dtype)
    return Parameter((u * 2 - 1) * np.dtype(dtype).type(bound))


def zeros(count: int, dtype: Any) -> Parameter:
    """A bias."""
    return Parameter(np.zeros(count, dtype))
