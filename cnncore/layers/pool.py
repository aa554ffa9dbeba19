"""Pooling layers: one n-d class over the pooling ops, one entry below for each, and the same over all of S."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import ops
from ..ops.scalars import plain
from .base import Drawing, Layer, by_rank, check_rank, told
from .contexts import Context, OpContext
from .init import seed_or_next


class Pool(Layer):
    """Base of the pooling layers: `op` on windows of kernel_size, every `stride` (default: kernel_size) elements."""

    rank: int
    op: Callable[..., Any]

    def __init__(
        self, kernel_size: int | Sequence[int], stride: Any = None, padding: Any = 0, *,
        dilation: Any = 1, ceil_mode: bool = False, **own: Any,
    ) -> None:  # fmt: skip
        self.attrs = plain({
            "kernel": kernel_size, "stride": kernel_size if stride is None else stride, "padding": padding,
            "dilation": dilation, "ceil_mode": ceil_mode, **own,
        })  # fmt: skip

    def apply(self, x: Any) -> tuple[Any, Context]:
        return self.apply_as(type(self).op, x)

    def apply_as(self, op: Callable[..., Any], x: Any) -> tuple[Any, Context]:
        """`apply` with an op that takes what the layer's own does."""
        check_rank(self, self.rank, x)
        y, call = op(x, **self.attrs)
        return y, OpContext(call)

    def describe(self) -> str:
        plain = {"padding": 0, "dilation": 1}
        return told({name: value for name, value in self.attrs.items() if value != plain.get(name, False)})


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


class LPPool(Pool):
    """Lp pooling: `ops.lp_pool` with p = norm_type, from 1 to inf. All but the first three are given by name."""

    op = ops.lp_pool

    def __init__(
        self, norm_type: float, kernel_size: int | Sequence[int], stride: Any = None, padding: Any = 0, *,
        dilation: Any = 1, ceil_mode: bool = False, normalize: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            kernel_size, stride, padding, dilation=dilation, ceil_mode=ceil_mode, p=norm_type, normalize=normalize
        )


class GaussianLPPool(Pool):
    """Lp pooling under a Gaussian envelope: `ops.gaussian_lp_pool`, with `p` and `sigma` given by name."""

    op = ops.gaussian_lp_pool


class ExpectationPool(Pool):
    """What stochastic pooling gives on average: `ops.expectation_pool`, with `power` given by name."""

    op = ops.expectation_pool


class EntropyPool(Pool):
    """Entropy pooling: `ops.entropy_pool`."""

    op = ops.entropy_pool


class StochasticPool(Pool, Drawing):
    """Draws an element of every window by its size when training (`ops.stochastic_pool`), and takes the expectation in
    evaluation mode (`ops.expectation_pool`), both with `power` given by name.

    `key` is (seed, counter): every call in training mode uses it and then counts one up.
    """

    op = ops.expectation_pool
    drawing = ops.stochastic_pool

    def __init__(
        self, kernel_size: int | Sequence[int], stride: Any = None, padding: Any = 0, *,
        dilation: Any = 1, ceil_mode: bool = False, power: float = 1.0, seed: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, dilation=dilation, ceil_mode=ceil_mode, power=power)
        self.key = (seed_or_next(seed), 0)

    def apply(self, x: Any) -> tuple[Any, Context]:
        if not self.training:
            return super().apply(x)
        check_rank(self, self.rank, x)
        return self.draw(type(self).drawing, x, **self.attrs)


class GlobalPool(Pool):
    """Base of the pooling layers over all of S, whatever its size: (N, C, *S) to (N, C, 1, ...).

    Arguments are the op's attributes, by name.
    """

    def __init__(self, **own: Any) -> None:
        self.attrs = plain(own)

    def describe(self) -> str:
        return told(self.attrs)


def over_all(op: Callable[..., Any], name: str) -> type[GlobalPool]:
    """The layer of a global pooling op."""
    doc = f"`ops.{op.__name__}`, {name[6:]} over all of S, whatever its size; its attributes are given by name."
    return type(name, (GlobalPool,), {"op": op, "__doc__": doc, "__module__": __name__})


class GlobalLPPool(GlobalPool):
    """LPPool over all of S, whatever its size: `ops.global_lp_pool` with p = norm_type."""

    op = ops.global_lp_pool

    def __init__(self, norm_type: float, *, normalize: bool = False) -> None:
        super().__init__(p=norm_type, normalize=normalize)


class GlobalStochasticPool(GlobalPool, StochasticPool):
    """StochasticPool over all of S, whatever its size: `ops.global_stochastic_pool`, `ops.global_expectation_pool`."""

    op = ops.global_expectation_pool
    drawing = ops.global_stochastic_pool

    def __init__(self, *, power: float = 1.0, seed: int | None = None) -> None:
        GlobalPool.__init__(self, power=power)
        self.key = (seed_or_next(seed), 0)


MaxPool1d, MaxPool2d, MaxPool3d = by_rank(MaxPool)
AvgPool1d, AvgPool2d, AvgPool3d = by_rank(AvgPool)
LPPool1d, LPPool2d, LPPool3d = by_rank(LPPool)
GaussianLPPool1d, GaussianLPPool2d, GaussianLPPool3d = by_rank(GaussianLPPool)
ExpectationPool1d, ExpectationPool2d, ExpectationPool3d = by_rank(ExpectationPool)
EntropyPool1d, EntropyPool2d, EntropyPool3d = by_rank(EntropyPool)
StochasticPool1d, StochasticPool2d, StochasticPool3d = by_rank(StochasticPool)

GlobalMaxPool = over_all(ops.global_max_pool, "GlobalMaxPool")
GlobalAvgPool = over_all(ops.global_avg_pool, "GlobalAvgPool")
GlobalGaussianLPPool = over_all(ops.global_gaussian_lp_pool, "GlobalGaussianLPPool")
GlobalExpectationPool = over_all(ops.global_expectation_pool, "GlobalExpectationPool")
GlobalEntropyPool = over_all(ops.global_entropy_pool, "GlobalEntropyPool")

GlobalMaxPool1d, GlobalMaxPool2d, GlobalMaxPool3d = by_rank(GlobalMaxPool)
GlobalAvgPool1d, GlobalAvgPool2d, GlobalAvgPool3d = by_rank(GlobalAvgPool)
GlobalLPPool1d, GlobalLPPool2d, GlobalLPPool3d = by_rank(GlobalLPPool)
GlobalGaussianLPPool1d, GlobalGaussianLPPool2d, GlobalGaussianLPPool3d = by_rank(GlobalGaussianLPPool)
GlobalExpectationPool1d, GlobalExpectationPool2d, GlobalExpectationPool3d = by_rank(GlobalExpectationPool)
GlobalEntropyPool1d, GlobalEntropyPool2d, GlobalEntropyPool3d = by_rank(GlobalEntropyPool)
GlobalStochasticPool1d, GlobalStochasticPool2d, GlobalStochasticPool3d = by_rank(GlobalStochasticPool)
