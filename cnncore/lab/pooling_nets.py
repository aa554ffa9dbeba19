"""The networks of `cnncore lab pooling`: one small network for every regime, and a chain of convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..layers import Branches, Conv2d, Dropout, Flatten, Layer, Linear, Maxout2d, MaxPool2d, ReLU, Sequential, seeds
from ..layers.contexts import Chain, Context, ViewContext
from ..models.pools import maker

Net = dict[str, Any]  # arguments of `build`, without the seed

WINDOW: dict[str, Any] = {"kernel_size": 3, "stride": 2}  # overlapping, and always full: 28 to 13 to 6


class Scaled(Layer):
    """A layer whose output is multiplied by a constant."""

    def __init__(self, layer: Layer, factor: float) -> None:
        self.layer, self.factor = layer, np.float32(factor)

    def apply(self, x: Any) -> tuple[Any, Context]:
        y, context = self.layer.apply(x)
        return self.factor * y, Chain(context, ViewContext(lambda dy: self.factor * dy))

    def describe(self) -> str:
        return f"{self.factor}"


# What `pool=` means is what it means everywhere: see `models.pools.pooling`.
REGIMES = (
    "max", "avg", "max+avg", "lp2", "lp4", "gaussian_lp4", "stochastic", "stochastic2", "expectation", "entropy",
)  # fmt: skip


def regime(pool: str, seed: int) -> Layer:
    """The pooling layer of a name in REGIMES, with the seed of its draws.

    "entropy" is max(x)^2 / sum(x) here: divided by the mean, a lone peak would come out 9 times as high, stage after
    stage.
    """
    layer = maker("lab pooling", pool, seed)(**WINDOW)
    return Scaled(layer, 1 / 9) if pool == "entropy" else layer


def small(*, pool: str, dropout: float, multi_stage: bool, seed: int) -> Sequential:
    """(N, 1, 28, 28) digits to (N, 10) logits: 5x5 convolutions of 16 and 32 maps, ReLU and pooling; 128 hidden.

    dropout: before every layer with weights but the first. multi_stage: the hidden units see the first stage's maps
    too, pooled once more to the second's size (Sermanet et al. 2012).
    """
    s = seeds(seed)
    first = [Conv2d(1, 16, 5, padding=2, seed=next(s)), ReLU(), regime(pool, next(s))]
    second = Sequential(
        Dropout(dropout, seed=next(s)), Conv2d(16, 32, 5, padding=2, seed=next(s)), ReLU(), regime(pool, next(s))
    )
    again = regime(pool, next(s))
    return Sequential(
        *first,
        Branches(second, again) if multi_stage else second,
        Flatten(),
        Dropout(dropout, seed=next(s)),
        Linear(6 * 6 * (48 if multi_stage else 32), 128, seed=next(s)),
        ReLU(),
        Dropout(dropout, seed=next(s)),
        Linear(128, 10, seed=next(s)),
    )


STAGES = {3: (1, 1, 1), 7: (1, 3, 3)}  # layers before each pooling
MAPS = 16


def chain(*, unit: str, depth: int, seed: int) -> Sequential:
    """(N, 1, 28, 28) digits to (N, 10) logits: three stages of 3x3 convolutions, 16 maps, max pooled.

    depth: how many convolutions. unit: "maxout" (of 2 pieces), "relu, maxout" (ReLU before it), or "relu", with sqrt(2)
    times as many maps: so many that a layer from maps to maps has as many weights.
    """
    s = seeds(seed)
    init = "he" if unit == "relu" else "xavier"  # the maximum of two is larger than their ReLU
    maps, pieces = (round(MAPS * math.sqrt(2)), 1) if unit == "relu" else (MAPS, 2)
    kinds: dict[str, list[Layer]] = {
        "maxout": [Maxout2d(pieces)], "relu, maxout": [ReLU(), Maxout2d(pieces)], "relu": [ReLU()]
    }  # fmt: skip
    body: list[Layer] = []
    channels = 1
    for count in STAGES[depth]:
        for _ in range(count):
            body += [Conv2d(channels, maps * pieces, 3, padding=1, init=init, seed=next(s)), *kinds[unit]]
            channels = maps
        body.append(MaxPool2d(3, 2, ceil_mode=True))  # 28 to 14 to 7 to 3
    return Sequential(*body, Flatten(), Linear(maps * 3 * 3, 10, seed=next(s)))


NETWORKS: dict[str, Callable[..., Layer]] = {"small": small, "chain": chain}


def build(*, network: str, seed: int, **options: Any) -> Layer:
    """A network by name: what the workers build."""
    return NETWORKS[network](seed=seed, **options)
