"""What a Sequential runs for its layers, where one op for two gives the same in less time.

    ReLU, MaxPool   as   `ops.relu_max_pool`    Nothing is left of ReLU in backward: where it stops dy, no element won.
    Conv, ReLU      as   `ops.conv_relu`        The sums are rectified before they go to memory.

The first is tried first, so that Conv, ReLU, MaxPool is Conv, relu_max_pool: the backward of conv_relu would pass over
the large map. Every number stays what it was, forward and backward.

Layers know nothing of it: what they show, their parameters, state and modes are their own. Subclasses run as they are.
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


class Step(NamedTuple):
    """A layer of a network, its dotted name, and what is run for it."""

    name: str
    layer: Layer
    apply: Callable[[Any], tuple[Any, Context]]


def fused(steps: Iterable[Step]) -> list[Step]:
    """The steps that compute what `steps` do."""
    pooled: list[Step] = []
    for step in steps:
        before, layer = pooled[-1].layer if pooled else None, step.layer
        if type(before) is ReLU and isinstance(layer, Pool) and type(layer) in RELU_POOLS:
            pooled[-1] = step._replace(apply=functools.partial(layer.apply_as, RELU_POOLS[type(layer)]))
        else:
            pooled.append(step)
    made: list[Step] = []
    for step in pooled:
        before = made[-1].layer if made else None
        if isinstance(before, Conv) and type(before) in CONVS and type(step.layer) is ReLU:
            made[-1] = made[-1]._replace(apply=functools.partial(before.apply_as, ops.conv_relu))
        else:
            made.append(step)
    return made
