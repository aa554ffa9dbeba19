"""Units across feature maps: Maxout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import ops
from .base import Context, Layer, OpContext, by_rank, check_rank


class Maxout(Layer):
    """The largest of `pieces` consecutive maps, and of a window of kernel_size of each: `ops.maxout`.

    stride: default kernel_size. (N, K pieces, *S) to (N, K, *O).
    """

    rank: int

    def __init__(self, pieces: int, kernel_size: int | Sequence[int] = 1, stride: Any = None, padding: Any = 0) -> None:
        self.attrs = {"pieces": pieces, "kernel": kernel_size, "stride": stride, "padding": padding}

    def apply(self, x: Any) -> tuple[Any, Context]:
        check_rank(self, self.rank, x)
        y, call = ops.maxout(x, **self.attrs)
        return y, OpContext(call)

    def describe(self) -> str:
        pieces, kernel, stride, padding = self.attrs.values()
        window = "" if kernel == 1 and stride is None else f", kernel_size={kernel}"
        step = "" if stride is None else f", stride={stride}"
        return f"{pieces}{window}{step}" + ("" if padding == 0 else f", padding={padding}")


Maxout1d, Maxout2d, Maxout3d = by_rank(Maxout)
