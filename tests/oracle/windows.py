"""Where windows are and what they hold, from the formulas of the sizes alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

Arrays = tuple[Any, ...]
REAL, PAD, OVERHANG = "real", "pad", "overhang"


class Axis(NamedTuple):
    """One spatial axis of a window problem."""

    n: int
    k: int
    s: int
    b: int
    e: int
    d: int
    ceil_mode: bool

    @property
    def out(self) -> int:
        """How many windows there are, found by walking them."""
        extent, start, count = self.d * (self.k - 1) + 1, 0, 0
        while start + extent <= self.b + self.n + self.e:
            start, count = start + self.s, count + 1
        uncovered = start - self.s + extent < self.b + self.n + self.e
        if self.ceil_mode and uncovered and start < self.b + self.n:
            count += 1
        return count

    def place(self, window: int, tap: int) -> tuple[int, str]:
        """The input index that a tap of a window falls on, and what is there."""
        at = window * self.s + tap * self.d - self.b
        if 0 <= at < self.n:
            return at, REAL
        return at, PAD if -self.b <= at < self.n + self.e else OVERHANG


def axes(size: tuple[int, ...], kernel: Any, attrs: dict[str, Any], default_stride: Any) -> list[Axis]:
    def per_axis(value: Any) -> list[Any]:
        return [value] * len(size) if isinstance(value, int) else list(value)

    stride = attrs.get("stride")
    pads = [p if isinstance(p, tuple) else (p, p) for p in per_axis(attrs.get("padding", 0))]
    return [
        Axis(n, k, s, b, e, d, attrs.get("ceil_mode", False))
        for n, k, s, (b, e), d in zip(
            size,
            per_axis(kernel),
            per_axis(default_stride if stride is None else stride),
            pads,
            per_axis(attrs.get("dilation", 1)),
            strict=True,
        )
    ]


def outputs(geometry: list[Axis]) -> Iterator[tuple[int, ...]]:
    return product(*(range(a.out) for a in geometry))


def taps(geometry: list[Axis], window: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], str]]:
    """(tap, input index, REAL / PAD / OVERHANG) of one window, row-major."""
    for tap in product(*(range(a.k) for a in geometry)):
        found = [a.place(o, t) for a, o, t in zip(geometry, window, tap, strict=True)]
        kinds = [kind for _, kind in found]
        kind = OVERHANG if OVERHANG in kinds else PAD if PAD in kinds else REAL
        yield tap, tuple(at for at, _ in found), kind


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape)
