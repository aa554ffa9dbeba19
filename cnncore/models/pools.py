"""Pooling by name: what `pool=` means for every network here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import CnncoreError
from ..layers import AvgPool2d, Layer, MaxPool2d

POOLS: dict[str, Callable[..., Layer]] = {"max": MaxPool2d, "avg": AvgPool2d}


def pooling(network: str, pool: str, kernel: int, stride: int | None = None, **geometry: Any) -> Layer:
    """A 2-d pooling layer. Raises CnncoreError, naming the network, where `pool` is not in POOLS."""
    if pool not in POOLS:
        raise CnncoreError(f"{network}: pool must be one of {', '.join(POOLS)}; got {pool!r}")
    return POOLS[pool](kernel, stride, **geometry)
