"""A deep maxout network for MNIST: seven maxout layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers import Conv2d, Dropout, Flatten, Layer, Linear, Maxout2d, Sequential, seeds
from ..ops.scalars import plain
from .pools import Pools, pooling


def deep_maxout(
    *, pool: Pools = "max", layers: int = 7, maps: int = 24, pieces: int = 2, dropout: float = 0.5,
    seed: int = 0, dtype: Any = np.float32,
) -> Sequential:  # fmt: skip
    """(N, 1, 28, 28) digits to (N, 10) logits; 74,746 parameters, all drawn from `seed`.

    `layers` (2 or more) of 3x3 convolution and maxout (`maps` of `pieces`), 2x2 pooling after the first two, then
    dropout and one fully connected layer. Raises CnncoreError (an unknown pool, a dropout outside [0, 1)), ShapeError.
    Source: the paper's 4.2: maxout learns with seven layers (Goodfellow et al. 2013).
    """
    maps, pieces = plain((maps, pieces))
    s, pools = seeds(seed), pooling("deep_maxout", pool, 2, seed)

    def units(c: int) -> list[Layer]:
        conv = Conv2d(c, maps * pieces, 3, padding=1, init="xavier", seed=next(s), dtype=dtype)
        return [conv, Maxout2d(pieces)]

    return Sequential(
        *units(1),
        next(pools)(2),
        *units(maps),
        next(pools)(2),
        *(layer for _ in range(layers - 2) for layer in units(maps)),
        Flatten(),
        Dropout(dropout, seed=next(s)),
        Linear(maps * 7 * 7, 10, init="xavier", seed=next(s), dtype=dtype),
    )
