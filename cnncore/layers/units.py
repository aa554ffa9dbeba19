"""Units across feature maps: Maxout, LPUnit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import ops
from ..backends.device import to_host
from ..errors import CnncoreError
from ..ops import geometry
from ..ops.scalars import plain
from .contexts import Context, OpContext
from .fields import Declared, by_rank, check_rank
from .init import zeros
from .parameter import Parameter


class Maxout(Declared):
    """The largest of `pieces` consecutive maps, and of a window of kernel_size of each: `ops.maxout`.

    stride: default kernel_size. (N, K pieces, *S) to (N, K, *O).
    """

    rank: int

    def __init__(self, pieces: int, kernel_size: int | Sequence[int] = 1, stride: Any = None, padding: Any = 0) -> None:
        self.attrs = plain({"pieces": pieces, "kernel": kernel_size, "stride": stride, "padding": padding})

    def apply(self, x: Any) -> tuple[Any, Context]:
        check_rank(self, self.rank, x)
        y, call = ops.maxout(x, **self.attrs)
        return y, OpContext(call)


Maxout1d, Maxout2d, Maxout3d = by_rank(Maxout)


class LPUnit(Declared):
    """The norm of `pieces` consecutive maps and a window, with a learnt p for each of out_channels: `ops.lp_unit`.

    (N, out_channels pieces, *S) to (N, out_channels, *O). p = 1 + log(1 + exp(rho)) starts at `p`, the centers (left
    out with center=False) at 0. Raises ShapeError, and CnncoreError unless p > 1.
    """

    rank: int

    def __init__(
        self, out_channels: int, pieces: int, kernel_size: int | Sequence[int] = 1, stride: Any = None,
        padding: Any = 0, *, center: bool = True, p: float = 2.0, dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        who = type(self).__name__
        k, j = (geometry.integer(who, *pair, 1) for pair in (("out_channels", out_channels), ("pieces", pieces)))
        p = plain(p)
        if isinstance(p, bool) or not isinstance(p, int | float) or not 1 < p <= sys.float_info.max:
            raise CnncoreError(f"{who}: p must be more than 1, got {p!r}")
        self.out_channels = k
        self.attrs = plain({"pieces": j, "kernel": kernel_size, "stride": stride, "padding": padding})
        self.rho = zeros(k, dtype)
        self.rho.value += p - 1 + np.log(-np.expm1(1 - p))  # softplus backwards
        self.center: Parameter | None = zeros(k * j, dtype) if center else None

    def apply(self, x: Any) -> tuple[Any, Context]:
        check_rank(self, self.rank, x)
        c = self.center
        y, call = ops.lp_unit(x, self.rho.value, None if c is None else c.value, **self.attrs)
        return y, self.context(call, rho=self.rho, center=c)

    def norms(self) -> np.ndarray:
        """The learnt p of every result map. Gulcehre et al. 2013 found 3.4 +- 0.38 on MNIST."""
        return 1 + np.logaddexp(to_host(self.rho.value), 0)

    def fields(self) -> dict[str, Any]:
        """`center` says which parameters there are, and is seen by them: it is no field."""
        return {name: value for name, value in super().fields().items() if name != "center"}


LPUnit1d, LPUnit2d, LPUnit3d = by_rank(LPUnit)
