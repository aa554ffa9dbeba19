"""What a Sequential runs for its layers: one op for two layers where that gives the same numbers in less time.

    ReLU, MaxPool   as   `ops.relu_max_pool`    Backward has no work for ReLU: a window that becomes 0 has no winner.
    Conv, ReLU      as   `ops.conv_relu`        The kernel rectifies the sums before it stores them.

The first rewrite is tried first, so Conv, ReLU, MaxPool run as conv, relu_max_pool. (After conv_relu, backward would
read and write the large map once more for ReLU.) All numbers stay the same, forward and backward.

A layer does not know that another op runs for it: its repr, parameters, state and modes stay its own. A subclass of
these layers is never replaced.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .. import ops
from .base import Layer
from .contexts import Context
from .conv import Conv
from .fields import by_rank
from .pool import GlobalMaxPool, MaxPool, Pool
from .simple import ReLU

CONVS = by_rank(Conv)
RELU_POOLS = {
    **dict.fromkeys(by_rank(MaxPool), ops.relu_max_pool),
    **dict.fromkeys(by_rank(GlobalMaxPool), ops.global_relu_max_pool),
}


class Part(NamedTuple):
    """A layer of a Sequential, its dotted name, and the function that runs for it."""

    name: str
    layer: Layer
    apply: Callable[[Any], tuple[Any, Context]]


def fused(parts: Iterable[Part]) -> list[Part]:
    """The parts that compute what `parts` do."""
    pooled: list[Part] = []
    for part in parts:
        before, layer = pooled[-1].layer if pooled else None, part.layer
        if type(before) is ReLU and isinstance(layer, Pool) and type(layer) in RELU_POOLS:
            pooled[-1] = part._replace(apply=functools.partial(layer.apply_as, RELU_POOLS[type(layer)]))
        else:
            pooled.append(part)
    made: list[Part] = []
    for part in pooled:
        before = made[-1].layer if made else None
        if isinstance(before, Conv) and type(before) in CONVS and type(part.layer) is ReLU:
            made[-1] = made[-1]._replace(apply=functools.partial(before.apply_as, ops.conv_relu))
        else:
            made.append(part)
    return made
