"""Pooling layers: one n-d class over the pooling ops, one entry below for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import ops
from .base import Context, Layer, OpContext, by_rank, check_rank


class Pool(Layer):
    """Base of the pooling layers: `op` on windows of kernel_size, every `stride` (default: kernel_size) elements."""

    rank: int
    op: Callable[..., Any]

    def __init__(
        self, kernel_size: int | Sequence[int], stride: Any = None, padding: Any = 0, *,
        dilation: Any = 1, ceil_mode: bool = False, **own: Any,
    ) -> None:  # fmt: skip
        self.attrs = {
            "kernel": kernel_size, "stride": kernel_size if stride is None else stride, "padding": padding,
            "dilation": dilation, "ceil_mode": ceil_mode, **own,
        }  # fmt: skip

    def apply(self, x: Any) -> tuple[Any, Context]:
        check_rank(self, self.rank, x)
        y, call = type(self).op(x, **self.attrs)
        return y, OpContext(call)

    def describe(self) -> str:
        plain = {"padding": 0, "dilation": 1}
        told = {name: value for name, value in self.attrs.items() if value != plain.get(name, False)}
        told = {"kernel_size": told.pop("kernel"), **told}
        return ", ".join(f"{name}={value}" for name, value in told.items())


class MaxPool(Pool):
    """Max pooling: `ops.max_pool`. All but kernel_size, stride and padding are given by name."""

    op = ops.max_pool


class AvgPool(Pool):
    """Average pooling: `ops.avg_pool`. All but kernel_size, stride and padding are given by name.

    `count_include_pad` is False by default, unlike PyTorch's: padding is no part of the picture.
    """

    op = ops.avg_pool

    def __init__(
        self, kernel_size: int | Sequence[int], stride: Any = None, padding: Any = 0, *,
        dilation: Any = 1, ceil_mode: bool = False, count_include_pad: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            kernel_size, stride, padding, dilation=dilation, ceil_mode=ceil_mode, count_include_pad=count_include_pad
        )


MaxPool1d, MaxPool2d, MaxPool3d = by_rank(MaxPool)
AvgPool1d, AvgPool2d, AvgPool3d = by_rank(AvgPool)
