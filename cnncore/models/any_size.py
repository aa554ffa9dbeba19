"""A fully convolutional network with global max pooling: images of any size and aspect ratio."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers import Conv2d, Dropout, Flatten, ReLU, Sequential, seeds
from .pools import Pools, pooling


def any_size(
    *, pool: Pools = "max", global_pool: str = "max", channels: int = 1, classes: int = 10,
    dropout: float = 0.0, seed: int = 0, dtype: Any = np.float32,
) -> Sequential:  # fmt: skip
    """(N, channels, H, W) images to (N, classes) logits, H and W from 12 on; 94,474 parameters, all drawn from `seed`.

    Convolutions of 5x5, 3x3 and 3x3 (32, 64, 128 maps) with ReLU, 2x2 pooling after the first two, `global_pool`, and
    a 1x1 convolution to the classes: a map says whether its feature is there, wherever that is. Only the image is
    padded, by 4, so a feature is a function of the 20x20 pixels it sees: with global max pooling a picture amid zeros
    has the same logits wherever it stands, up to the stride of 4.
    Raises CnncoreError (an unknown pool, a dropout outside [0, 1)), ShapeError (an image too small, when applied).
    Source: the paper's 2.7, its own proposal.
    """
    s, pools = seeds(seed), pooling("any_size", pool, 2, seed)
    return Sequential(
        Conv2d(channels, 32, 5, padding=4, seed=next(s), dtype=dtype),
        ReLU(),
        next(pools)(2),
        Conv2d(32, 64, 3, seed=next(s), dtype=dtype),
        ReLU(),
        next(pools)(2),
        Conv2d(64, 128, 3, seed=next(s), dtype=dtype),
        ReLU(),
        next(pooling("any_size", global_pool, 1, next(s)))(),
        Dropout(dropout, seed=next(s)),
        Conv2d(128, classes, 1, init="xavier", seed=next(s), dtype=dtype),
        Flatten(),
    )
