"""Normalisation layers: without parameters, and for maps of any rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from .. import ops
from .base import Context, Layer, OpContext


class Norm(Layer):
    """Base of the normalisation layers: `op` with the layer's attributes."""

    op: ClassVar[Callable[..., Any]]

    def __init__(self, **attrs: Any) -> None:
        self.attrs = attrs

    def apply(self, x: Any) -> tuple[Any, Context]:
        y, call = type(self).op(x, **self.attrs)
        return y, OpContext(call)

    def describe(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.attrs.items())


class LocalResponseNorm(Norm):
    """Normalisation across `size` neighbouring maps: `ops.lrn`.

    Names and order are PyTorch's, but the defaults are Krizhevsky's: k = 2, and alpha as it stands. PyTorch has k = 1
    and divides alpha by size: `LocalResponseNorm(size, k=1.0, alpha_over_size=True)`.
    """

    op = ops.lrn

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, *, alpha_over_size: bool = False
    ) -> None:
        super().__init__(size=size, alpha=alpha, beta=beta, k=k, alpha_over_size=alpha_over_size)


class LocalResponseNormWithin(Norm):
    """Normalisation within each map, over a window of kernel_size: `ops.lrn_within`, with its defaults."""

    op = ops.lrn_within

    def __init__(
        self, kernel_size: int | Sequence[int], alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, *,
        alpha_over_size: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(kernel=kernel_size, alpha=alpha, beta=beta, k=k, alpha_over_size=alpha_over_size)
