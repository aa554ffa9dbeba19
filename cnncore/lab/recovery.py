"""Images recovered from their feature maps by gradient descent, through the ops' own backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..layers.base import Layer
from ..layers.contexts import Context, OpContext
from ..layers.parameter import Parameter
from ..optim import Adam, CosineLR

RATE = 0.1  # the first step, in grey levels of an image in [0, 1]
BETAS = (0.9, 0.9)  # the gradient shrinks with the misfit, so its size has to be forgotten as fast as its direction


class Fixed(Layer):
    """An op as a layer, with all its arguments but x given once: `Fixed(ops.conv, w, padding=2)`. Learns nothing."""

    def __init__(self, op: Callable[..., Any], *arrays: Any, **attrs: Any) -> None:
        self.op, self.arrays, self.attrs = op, arrays, attrs

    def apply(self, x: Any) -> tuple[Any, Context]:
        y, call = self.op(x, *self.arrays, **self.attrs)
        return y, OpContext(call)


class Image(Layer):
    """What is looked for, as something that an optimiser can move."""

    def __init__(self, start: np.ndarray) -> None:
        self.pixels = Parameter(start)


def recover(maps_of: Layer, x: np.ndarray, start: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Minimise |maps_of(z) - maps_of(x)|^2 / 2 over z from `start`, by Adam with a rate that falls along a cosine.

    x and start are (N, C, *S): N images at once, each on its own, since Adam moves every element by its own gradients.
    Returns z and its misfit (N,), |maps_of(z) - maps_of(x)| / |maps_of(x)|.
    """
    sought, _ = maps_of.apply(x)
    minus = -sought
    image = Image(start.copy())
    optimizer, schedule = Adam(image, RATE, BETAS), CosineLR(steps)
    for step in range(steps):
        found, ctx = maps_of.apply(image.pixels.value)
        misfit, _ = ops.add(found, minus)
        image.pixels.grad = ctx.backward(misfit)
        optimizer.step(schedule(RATE, step))
    found, _ = maps_of.apply(image.pixels.value)
    return image.pixels.value, relative(found, sought)


def relative(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    """|found - right| / |right| of every sample (N,)."""
    difference, size = (
        np.linalg.norm(a.reshape(len(a), -1).astype(np.float64), axis=1) for a in (found - right, right)
    )
    return np.asarray(difference / size)
