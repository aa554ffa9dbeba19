"""Normalisation layers: without parameters, and for maps of any rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from .. import ops
from ..ops.scalars import plain
from .contexts import Chain, Context, OpContext
from .fields import Declared


class _Norm(Declared):
    """Base of the normalisation layers: `op` with the layer's attributes."""

    op: ClassVar[Callable[..., Any]]

    def __init__(self, **attrs: Any) -> None:
        self.attrs = plain(attrs)

    def apply(self, x: Any) -> tuple[Any, Context]:
        y, call = type(self).op(x, **self.attrs)
        return y, OpContext(call)


class LocalResponseNorm(_Norm):
    """Normalisation across `size` neighbouring maps: `ops.lrn`.

    Names and order are PyTorch's, but the defaults are Krizhevsky's: k = 2, and alpha as it stands. PyTorch has k = 1
    and divides alpha by size: `LocalResponseNorm(size, k=1.0, alpha_over_size=True)`.
    """

    op = ops.lrn

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, *, alpha_over_size: bool = False
    ) -> None:
        super().__init__(size=size, alpha=alpha, beta=beta, k=k, alpha_over_size=alpha_over_size)


class LocalResponseNormWithin(_Norm):
    """Normalisation within each map, over a window of kernel_size: `ops.lrn_within`, with its defaults."""

    op = ops.lrn_within

    def __init__(
        self, kernel_size: int | Sequence[int], alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, *,
        alpha_over_size: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(kernel=kernel_size, alpha=alpha, beta=beta, k=k, alpha_over_size=alpha_over_size)


class ContrastNorm(Declared):
    """Local contrast normalisation: `ops.subtractive_norm`, then `ops.divisive_norm` with the same window.

    y = v / max(r, mean of r, floor), v = x - its Gaussian mean around, r the Gaussian deviation of v around; over all
    maps and a window of kernel_size. `sigma` is a quarter of kernel_size by default. Raises ShapeError, CnncoreError.
    """

    def __init__(
        self, kernel_size: int | Sequence[int] = 9, sigma: float | None = None, *, floor: float = 1e-4
    ) -> None:
        self.attrs = plain({"kernel": kernel_size, "sigma": sigma, "floor": floor})

    def apply(self, x: Any) -> tuple[Any, Context]:
        window = {"kernel": self.attrs["kernel"], "sigma": self.attrs["sigma"]}
        v, first = ops.subtractive_norm(x, **window)
        y, second = ops.divisive_norm(v, **self.attrs)
        return y, Chain(OpContext(first), OpContext(second))
