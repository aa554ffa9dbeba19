"""Convolution layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import ops
from ..errors import ShapeError
from ..ops import geometry
from ..ops.scalars import plain
from .contexts import Context
from .fields import Declared, by_rank, check_rank
from .init import draw, zeros
from .parameter import Parameter


class Conv(Declared):
    """Convolution of (N, in_channels, *S) with out_channels learnt filters: `ops.conv` with its weight and bias.

    kernel_size, stride, dilation: an int or one per spatial axis; padding also (begin, end) pairs. `algorithm`: see
    `ops.conv`. `init`: see `layers/init.py`; the bias starts at 0. Raises ShapeError, DTypeError, CnncoreError.
    """

    rank: int

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Sequence[int], stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1, bias: bool = True, *,
        algorithm: str = "auto", init: str = "he", seed: int | None = None, dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        who = type(self).__name__
        c = geometry.integer(who, "in_channels", in_channels, 1)
        k = geometry.integer(who, "out_channels", out_channels, 1)
        groups = geometry.integer(who, "groups", groups, 1)
        if c % groups or k % groups:
            raise ShapeError(f"{who}: in_channels ({c}) and out_channels ({k}) must be multiples of groups ({groups})")
        kernel = geometry.per_axis(who, "kernel_size", kernel_size, self.rank, 1)
        self.in_channels, self.out_channels, self.kernel_size = c, k, tuple(kernel)
        where = plain({"stride": stride, "padding": padding, "dilation": dilation})
        self.attrs = {**where, "groups": groups, "algorithm": algorithm}
        self.weight = draw(who, (k, c // groups, *kernel), init, seed, dtype)
        self.bias: Parameter | None = zeros(k, dtype) if bias else None

    def apply(self, x: Any) -> tuple[Any, Context]:
        return self.apply_as(ops.conv, x)

    def apply_as(self, op: Callable[..., Any], x: Any) -> tuple[Any, Context]:
        """`apply` with an op that takes what `ops.conv` does."""
        check_rank(self, self.rank, x)
        b = self.bias
        y, call = op(x, self.weight.value, None if b is None else b.value, **self.attrs)
        return y, self.context(call, w=self.weight, b=b)


Conv1d, Conv2d, Conv3d = by_rank(Conv)
