"""Drawing problems: what an op's `domain` draws from.

gradcheck, the tests, the benchmark and the documentation all get their problems from `op.domain(draw)`. `Draw` draws
from a seed; the tests substitute a subclass whose choices Hypothesis makes (and shrinks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


class Draw:
    """Choices and values from one seed. Values are float64."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape)

    def uniform(self, *shape: int) -> np.ndarray:
        """Uniform in [0, 1)."""
        return self.rng.random(shape)

    def distinct(self, *shape: int) -> tuple[np.ndarray, float]:
        """Values of order 1 in random order, and a gap: any two values, any two magnitudes, and every value and 0, are
        at least that far apart. So no max changes its winner and no ReLU its side within half of it."""
        count = math.prod(shape)
        gap = 4.0 / max(count, 1)
        ranks = self.rng.permutation(count) - count // 2
        return ((ranks + 0.25) * gap).reshape(shape), gap / 4


def window(draw: Draw, padded: bool = True) -> tuple[tuple[int, ...], dict[str, Any]]:
    """A spatial size of rank 1 to 3, and kernel, stride, padding and dilation that fit it.

    Every window holds a real element: pads are shorter than the extent, and the size is at least the dilation.
    """
    rank = draw.choice([2, 1, 3])
    most = {1: 7, 2: 4, 3: 3}[rank]
    size, kernel, stride, padding, dilation = [], [], [], [], []
    for _ in range(rank):
        k, d = draw.integer(1, most), draw.choice([1, 1, 2, 3])
        reach = d * (k - 1)
        begin, end = (draw.integer(0, min(reach, 3)), draw.integer(0, min(reach, 3))) if padded else (0, 0)
        size.append(max(d, reach + 1 - begin - end) + draw.integer(0, most))
        kernel.append(k)
        stride.append(draw.integer(1, 3))
        padding.append((begin, end))
        dilation.append(d)
    attrs = {
        "kernel": tuple(kernel), "stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)
    }  # fmt: skip
    return tuple(size), attrs
