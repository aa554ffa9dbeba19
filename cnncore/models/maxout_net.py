"""The maxout network for MNIST: Goodfellow et al. 2013."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers import Conv2d, Dropout, Flatten, Layer, Linear, Maxout2d, ReLU, Sequential, seeds
from ..ops.scalars import plain
from .pools import Pools, pooling


def maxout_net(
    *, pool: Pools = "max", relu: bool = False, dropout: float = 0.5, seed: int = 0, dtype: Any = np.float32
) -> Sequential:
    """(N, 1, 28, 28) digits to (N, 10) logits; 418,714 parameters, all drawn from `seed`.

    Three stages of convolution, maxout over maps (48, 48, 24 of 2, 2, 4 pieces) and overlapping pooling; dropout before
    every layer with weights but the first, where it takes a fifth of the pixels at most. No ReLU stands before maxout,
    so outputs may be negative; `relu=True` puts one there, which costs accuracy (the paper's 2.6).
    Raises CnncoreError (an unknown pool, a dropout outside [0, 1)).
    Source: Goodfellow et al. 2013; the paper's 2.6.
    """
    s, pools = seeds(seed), pooling("maxout_net", pool, 3, seed)

    def stage(c: int, maps: int, pieces: int, kernel: int, padding: int, window: int) -> list[Layer]:
        conv = Conv2d(c, maps * pieces, kernel, padding=padding, init="xavier", seed=next(s), dtype=dtype)
        units = [ReLU(), Maxout2d(pieces)] if relu else [Maxout2d(pieces)]
        return [conv, *units, next(pools)(window, 2, ceil_mode=True)]

    return Sequential(
        Dropout(0.4 * plain(dropout), seed=next(s)),
        *stage(1, 48, 2, 8, 0, 4),  # 28 to 21 to 10
        Dropout(dropout, seed=next(s)),
        *stage(48, 48, 2, 8, 3, 4),  # 9 to 4
        Dropout(dropout, seed=next(s)),
        *stage(48, 24, 4, 5, 3, 2),  # 6 to 3
        Flatten(),
        Dropout(dropout, seed=next(s)),
        Linear(24 * 3 * 3, 10, init="xavier", seed=next(s), dtype=dtype),
    )
