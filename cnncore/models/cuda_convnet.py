"""Krizhevsky's cuda-convnet network for CIFAR-10, the "18 %" one."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers import Conv2d, Flatten, Linear, LocalResponseNorm, ReLU, Sequential, seeds
from .pools import pooling


def cuda_convnet(
    *, pools: tuple[str, str, str] = ("max", "avg", "avg"), classes: int = 10, seed: int = 0, dtype: Any = np.float32
) -> Sequential:
    """(N, 3, 32, 32) images to (N, classes) logits; 89,578 parameters with 10 classes, all drawn from `seed`.

    Three stages of 5x5 convolution (32, 32, 64 maps), ReLU and overlapping 3x3/2 pooling, the first two followed by
    local response normalisation over 3 maps. `pools` names each stage's pooling; in the first, ReLU comes after it.
    Raises CnncoreError (an unknown pool).
    Source: cuda-convnet's layers-18pct.cfg (Krizhevsky 2012); the paper's 1.3.
    """
    s = seeds(seed)

    def pool(stage: int) -> Any:
        return pooling("cuda_convnet", pools[stage], 3, 2, ceil_mode=True)  # 32 to 16, 16 to 8, 8 to 4

    return Sequential(
        Conv2d(3, 32, 5, padding=2, seed=next(s), dtype=dtype),
        pool(0),
        ReLU(),
        LocalResponseNorm(3, alpha=5e-5, k=1.0),
        Conv2d(32, 32, 5, padding=2, seed=next(s), dtype=dtype),
        ReLU(),
        pool(1),
        LocalResponseNorm(3, alpha=5e-5, k=1.0),
        Conv2d(32, 64, 5, padding=2, seed=next(s), dtype=dtype),
        ReLU(),
        pool(2),
        Flatten(),
        Linear(64 * 4 * 4, classes, seed=next(s), dtype=dtype),
    )
