"""ReLU, Sigmoid, Tanh, Softmax, Linear, Dropout, Flatten."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..backends.device import device_of
from ..errors import CnncoreError, ShapeError
from ..ops import geometry
from ..ops.scalars import plain
from .base import Drawing, Layer
from .contexts import Context, OpContext, ViewContext
from .fields import Declared, by_rank, check_rank
from .init import draw, seed_or_next, zeros
from .parameter import Parameter


class _Function(Layer):
    """Base of the layers that are an op of x alone."""

    op: Callable[..., Any]

    def apply(self, x: Any) -> tuple[Any, Context]:
        y, call = type(self).op(x)
        return y, OpContext(call)


class ReLU(_Function):
    """max(0, x): `ops.relu`."""

    op = ops.relu


class Sigmoid(_Function):
    """1 / (1 + exp(-x)): `ops.sigmoid`."""

    op = ops.sigmoid


class Tanh(_Function):
    """Hyperbolic tangent: `ops.tanh`."""

    op = ops.tanh


class Softmax(_Function):
    """exp(x) / sum of exp(x) over axis 1, the maps or classes: `ops.softmax`."""

    op = ops.softmax


class Linear(Declared):
    """Fully connected, (N, in_features) to (N, out_features): `ops.linear` with its weight and bias.

    `init`: see `layers/init.py`; the bias starts at 0. Raises ShapeError, DTypeError, CnncoreError.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *,
        init: str = "he", seed: int | None = None, dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        shape = (
            geometry.integer("Linear", "out_features", out_features, 1),
            geometry.integer("Linear", "in_features", in_features, 1),
        )
        self.out_features, self.in_features = shape
        self.weight = draw("Linear", shape, init, seed, dtype)
        self.bias: Parameter | None = zeros(shape[0], dtype) if bias else None

    def apply(self, x: Any) -> tuple[Any, Context]:
        b = self.bias
        y, call = ops.linear(x, self.weight.value, None if b is None else b.value)
        return y, self.context(call, w=self.weight, b=b)


class Dropout(Declared, Drawing):
    """Drops each element with probability p when training, scaling the others by 1 / (1 - p): `ops.dropout`.

    Dropout1d, Dropout2d and Dropout3d drop whole maps of (N, C, *S) instead.
    `key` is (seed, counter): every call in training mode uses it and then counts one up. The identity in evaluation
    mode. Raises CnncoreError unless 0 <= p < 1.
    """

    rank: int | None = None

    def __init__(self, p: float = 0.5, *, seed: int | None = None) -> None:
        p = plain(p)
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p < 1:
            raise CnncoreError(f"{type(self).__name__}: p must be a number with 0 <= p < 1, got {p!r}")
        self.p = float(p)
        self.key = (seed_or_next(seed), 0)

    def apply(self, x: Any) -> tuple[Any, Context]:
        if self.rank is not None:
            check_rank(self, self.rank, x)
        if not self.training:
            return x, ViewContext(lambda dy: dy)
        return self.draw(ops.dropout, x, p=self.p, per="element" if self.rank is None else "map")


Dropout1d, Dropout2d, Dropout3d = by_rank(Dropout)


class Flatten(Layer):
    """(N, ...) to (N, F): all axes but the first become one."""

    def apply(self, x: Any) -> tuple[Any, Context]:
        shape = tuple(getattr(x, "shape", ()))
        if len(shape) < 2:
            raise ShapeError(f"Flatten: x must be (N, ...) with at least 2 axes, got shape {shape}")
        # Features go map by map, whatever the memory format: a channels-last x is laid out anew first.
        flat = device_of(x).laid_out(x, channels_last=False)
        return flat.reshape(shape[0], math.prod(shape[1:])), ViewContext(lambda dy: dy.reshape(shape))
