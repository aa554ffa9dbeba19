"""Network in Network: Lin, Chen & Yan 2013."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers import Dropout, Flatten, Layer, MLPConv2d, Sequential, seeds
from .pools import Pools, pooling


def network_in_network(
    *, pool: Pools = "max", global_pool: str = "avg", channels: int = 3, classes: int = 10,
    dropout: float = 0.5, seed: int = 0, dtype: Any = np.float32,
) -> Sequential:  # fmt: skip
    """(N, channels, H, W) images to (N, classes) logits; 966,986 parameters for CIFAR-10, all drawn from `seed`.

    Three mlpconv stages, a convolution (5x5, 5x5, 3x3; 192 maps) whose output goes through two 1x1 ones, ReLU after
    each; overlapping 3x3/2 pooling and dropout between them. The last stage has one map per class, and `global_pool`
    over it gives the logits: no layer is fully connected, and images may have any size. The last biases start at 1: a
    class whose map the last ReLU has made 0 has no gradient, and from 0 many trainings lose all ten.
    Raises CnncoreError (an unknown pool, a dropout outside [0, 1)).
    Source: Lin et al. 2013; the paper's 2.7.
    """
    s, pools = seeds(seed), pooling("network_in_network", pool, 2, seed)

    def mlpconv(c: int, maps: tuple[int, int, int], kernel: int) -> Layer:
        return MLPConv2d(c, maps, kernel, padding=kernel // 2, seed=next(s), dtype=dtype)

    net = Sequential(
        mlpconv(channels, (192, 160, 96), 5),
        next(pools)(3, 2, ceil_mode=True),
        Dropout(dropout, seed=next(s)),
        mlpconv(96, (192, 192, 192), 5),
        next(pools)(3, 2, ceil_mode=True),
        Dropout(dropout, seed=next(s)),
        mlpconv(192, (192, 192, classes), 3),
        next(pooling("network_in_network", global_pool, 1, next(s)))(),
        Flatten(),
    )
    net.parameters()["6.4.bias"].value += 1
    return net
