"""AlexNet: Krizhevsky, Sutskever & Hinton 2012, with the groups that its two GPUs were."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers import Conv2d, Dropout, Flatten, Layer, Linear, LocalResponseNorm, ReLU, Sequential, seeds
from .pools import Pools, pooling


def alexnet(
    *, pool: Pools = "max", classes: int = 1000, dropout: float = 0.5, seed: int = 0, dtype: Any = np.float32
) -> Sequential:
    """(N, 3, 227, 227) images to (N, classes) logits; 60,965,224 parameters with 1000 classes, all drawn from `seed`.

    Five convolutions with ReLU (the second, fourth and fifth in two groups), local response normalisation after the
    first two, overlapping 3x3/2 pooling after the first, second and fifth, two hidden layers of 4096 with dropout.
    Raises CnncoreError (an unknown pool, a dropout outside [0, 1)).
    Source: Krizhevsky et al. 2012; the paper's 1.2 and 1.3.
    """
    s, pools = seeds(seed), pooling("alexnet", pool, 3, seed)

    def conv(c: int, k: int, kernel: int, **geometry: Any) -> list[Layer]:
        return [Conv2d(c, k, kernel, seed=next(s), dtype=dtype, **geometry), ReLU()]

    def hidden(features: int) -> list[Layer]:
        return [Linear(features, 4096, seed=next(s), dtype=dtype), ReLU(), Dropout(dropout, seed=next(s))]

    return Sequential(
        *conv(3, 96, 11, stride=4),
        LocalResponseNorm(),
        next(pools)(3, 2),
        *conv(96, 256, 5, padding=2, groups=2),
        LocalResponseNorm(),
        next(pools)(3, 2),
        *conv(256, 384, 3, padding=1),
        *conv(384, 384, 3, padding=1, groups=2),
        *conv(384, 256, 3, padding=1, groups=2),
        next(pools)(3, 2),
        Flatten(),
        *hidden(256 * 6 * 6),
        *hidden(4096),
        Linear(4096, classes, seed=next(s), dtype=dtype),
    )
