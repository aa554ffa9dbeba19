"""Sermanet, Chintala & LeCun's multi-stage network for house numbers, with Lp pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers import Branches, ContrastNorm, Conv2d, Dropout, Flatten, Layer, Linear, ReLU, Sequential, seeds
from ..ops.scalars import plain
from .pools import Pools, pooling


def sermanet(
    *, pool: Pools = "gaussian_lp4", contrast: bool = True, multi_stage: bool = True, maps: tuple[int, int] = (16, 512),
    hidden: int = 20, image: tuple[int, int, int] = (3, 32, 32), classes: int = 10, dropout: float = 0.0,
    seed: int = 0, dtype: Any = np.float32,
) -> Sequential:  # fmt: skip
    """(N, *image) images to (N, classes) logits; 582,886 parameters for SVHN, all drawn from `seed`.

    Two stages of convolution (5x5, 7x7; `maps`), ReLU and overlapping 3x3/2 pooling, and a classifier of two layers
    with `hidden` units, dropout on its input where wanted. With `multi_stage` the classifier sees the output of both
    stages, the first's pooled once more (the third `pool`); without it that of the second alone. With `contrast` what
    leaves a stage is normalised, subtractively and divisively. `image` is (C, H, W).
    Raises CnncoreError (an unknown pool, a dropout outside [0, 1)).
    Source: Sermanet et al. 2012; the paper's 2.4 and 3.3.
    """
    s, pools = seeds(seed), pooling("sermanet", pool, 3 if multi_stage else 2, seed)
    (c, height, width), (first, second) = plain((image, maps))

    def stage(c: int, k: int, kernel: int) -> list[Layer]:
        return [Conv2d(c, k, kernel, seed=next(s), dtype=dtype), ReLU(), next(pools)(3, 2, ceil_mode=True)]

    def size(height: int, width: int, kernel: int) -> tuple[int, int]:
        """Of a stage's output: 32 to 14 to 4, 28 to 12 to 3."""
        return (height - kernel + 1) // 2, (width - kernel + 1) // 2

    def ended(*layers: Layer) -> Sequential:
        return Sequential(*layers, *norm, Flatten())

    norm = [ContrastNorm(7)] if contrast else []
    (h1, w1), (h2, w2) = (one := size(height, width, 5)), size(*one, 7)
    body = stage(c, first, 5)
    rest: Layer = ended(*norm, *stage(first, second, 7))
    features = second * h2 * w2
    if multi_stage:
        rest = Branches(ended(next(pools)(3, 2, ceil_mode=True)), rest)
        features += first * (h1 // 2) * (w1 // 2)
    return Sequential(
        *body,
        rest,
        Dropout(dropout, seed=next(s)),
        Linear(features, hidden, seed=next(s), dtype=dtype),
        ReLU(),
        Linear(hidden, classes, init="xavier", seed=next(s), dtype=dtype),
    )
