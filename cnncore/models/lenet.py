"""The LeNet-style network for MNIST digits."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers import Conv2d, Dropout, Flatten, Linear, ReLU, Sequential, seeds
from .pools import Pools, pooling


def lenet(*, pool: Pools = "max", dropout: float = 0.5, seed: int = 0, dtype: Any = np.float32) -> Sequential:
    """(N, 1, 28, 28) digits to (N, 10) logits; 1.66 million parameters, all drawn from `seed`.

    Two stages of 5x5 convolution, ReLU and 2x2 pooling (32 maps of 14x14, 64 maps of 7x7), then 512 hidden units with
    dropout. Raises CnncoreError (an unknown pool, a dropout outside [0, 1)).
    Source: the paper's 1.3, after LeCun et al. 1998.
    """
    s, pools = seeds(seed), pooling("lenet", pool, 2, seed)
    return Sequential(
        Conv2d(1, 32, 5, padding=2, seed=next(s), dtype=dtype),
        ReLU(),
        next(pools)(2),
        Conv2d(32, 64, 5, padding=2, seed=next(s), dtype=dtype),
        ReLU(),
        next(pools)(2),
        Flatten(),
        Linear(64 * 7 * 7, 512, seed=next(s), dtype=dtype),
        ReLU(),
        Dropout(dropout, seed=next(s)),
        Linear(512, 10, seed=next(s), dtype=dtype),
    )
