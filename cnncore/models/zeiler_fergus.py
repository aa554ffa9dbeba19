"""The network of stochastic pooling: Zeiler & Fergus 2013."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers import Conv2d, Dropout, Flatten, Layer, Linear, LocalResponseNorm, ReLU, Sequential, seeds
from ..ops.scalars import plain
from .pools import Pools, pooling


def zeiler_fergus(
    *, pool: Pools = "stochastic", image: tuple[int, int, int] = (3, 32, 32), classes: int = 10,
    dropout: float = 0.0, seed: int = 0, dtype: Any = np.float32,
) -> Sequential:  # fmt: skip
    """(N, *image) images to (N, classes) logits; 220,042 parameters for CIFAR-10, all drawn from `seed`.

    Three stages of 5x5 convolution (64 maps), ReLU, overlapping 3x3/2 pooling and local response normalisation, then
    one fully connected layer, with dropout before it where wanted. `image` is (C, H, W).
    Raises CnncoreError (an unknown pool, a dropout outside [0, 1)).
    Source: Zeiler & Fergus 2013; the paper's 2.5.
    """
    s, pools = seeds(seed), pooling("zeiler_fergus", pool, 3, seed)
    c, height, width = plain(image)

    def stage(c: int) -> list[Layer]:
        conv = Conv2d(c, 64, 5, padding=2, seed=next(s), dtype=dtype)
        return [conv, ReLU(), next(pools)(3, 2, ceil_mode=True), LocalResponseNorm(9, alpha=1e-4, k=1.0)]

    for _ in range(3):
        height, width = height // 2, width // 2  # 32 to 4, 28 to 3
    return Sequential(
        *stage(c),
        *stage(64),
        *stage(64),
        Flatten(),
        Dropout(dropout, seed=next(s)),
        Linear(64 * height * width, classes, init="xavier", seed=next(s), dtype=dtype),
    )
