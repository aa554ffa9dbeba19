"""Krizhevsky's cuda-convnet network for CIFAR-10, the "18 %" one."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers import Conv2d, Flatten, Linear, LocalResponseNorm, ReLU, Sequential, seeds
from .pools import Pools, pooling


def cuda_convnet(
    *, pool: Pools = ("max", "avg", "avg"), classes: int = 10, seed: int = 0, dtype: Any = np.float32
) -> Sequential:
    """(N, 3, 32, 32) images to (N, classes) logits; 89,578 parameters with 10 classes, all drawn from `seed`.

    Three stages of 5x5 convolution (32, 32, 64 maps), ReLU and overlapping 3x3/2 pooling, the first two followed by
    local response normalisation over 3 maps. In the first stage ReLU comes last.
    Raises CnncoreError (an unknown pool).
    Source: cuda-convnet's layers-18pct.cfg (Krizhevsky 2012); the paper's 1.3.
    """
    s, pools = seeds(seed), pooling("cuda_convnet", pool, 3, seed)
    return Sequential(
        Conv2d(3, 32, 5, padding=2, seed=next(s), dtype=dtype),
        next(pools)(3, 2, ceil_mode=True),
        ReLU(),
        LocalResponseNorm(3, alpha=5e-5, k=1.0),
        Conv2d(32, 32, 5, padding=2, seed=next(s), dtype=dtype),
        ReLU(),
        next(pools)(3, 2, ceil_mode=True),
        LocalResponseNorm(3, alpha=5e-5, k=1.0),
        Conv2d(32, 64, 5, padding=2, seed=next(s), dtype=dtype),
        ReLU(),
        next(pools)(3, 2, ceil_mode=True),
        Flatten(),
        Linear(64 * 4 * 4, classes, seed=next(s), dtype=dtype),
    )
