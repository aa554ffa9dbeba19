"""What a Sequential runs for its layers, where another order or one op for two gives the same in less time.

    ReLU, MaxPool   as   MaxPool, ReLU      The largest of max(0, x) is max(0, the largest x), and has fewer elements.
    Conv, ReLU      as   `ops.conv_relu`    The sums are rectified before they go to memory.

The first is tried first, so that Conv, ReLU, MaxPool is Conv, MaxPool, ReLU: of a fused ReLU the backward would still
pass over the large map. Every number stays what it was, forward and backward: where a window's largest is positive, its
winner is the same, and where it is not, no gradient passes either way; NaN wins and stays NaN.

Layers know nothing of it: what they show, their parameters, state and modes are their own. Subclasses run as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .. import ops
from .base import Context, Layer, by_rank
from .conv import Conv
from .pool import GlobalMaxPool, MaxPool
from .simple import ReLU

CONVS = by_rank(Conv)
MAX_POOLS = (*by_rank(MaxPool), *by_rank(GlobalMaxPool))


class Step(NamedTuple):
    """A layer of a network, its dotted name, and what is run for it."""

    name: str
    layer: Layer
    apply: Callable[[Any], tuple[Any, Context]]


def fused(steps: Iterable[Step]) -> list[Step]:
    """The steps that compute what `steps` do."""
    early: list[Step] = []
    for step in steps:
        if early and type(early[-1].layer) is ReLU and type(step.layer) in MAX_POOLS:
            early.insert(-1, step)
        else:
            early.append(step)
    made: list[Step] = []
    for step in early:
        before = made[-1].layer if made else None
        if isinstance(before, Conv) and type(before) in CONVS and type(step.layer) is ReLU:
            made[-1] = made[-1]._replace(apply=functools.partial(before.apply_as, ops.conv_relu))
        else:
            made.append(step)
    return made
