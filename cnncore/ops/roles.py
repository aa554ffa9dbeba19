"""How an array argument of an op behaves. Everything that depends on it asks the role; nobody compares names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DTypeError

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, eq=False)
class Role:
    """
    gradient: whether the argument has a gradient: kernels of backward write one for each of these, in their order.
    maps: feature maps (N, C, *S), which kernels take contiguous or channels last; anything else they take C-contiguous.
    drawn: uniforms in [0, 1) of the shape that the rule names, in the maps' layout, or a Philox key (seed, counter).
    dtype: of the elements; None stands for the one dtype of all float arguments.
    many: any number of arguments (`*xs`).
    """

    gradient: bool = False
    maps: bool = False
    drawn: bool = False
    dtype: np.dtype[Any] | None = None
    many: bool = False

    def check(self, who: str, name: str, a: Any) -> None:
        """Raise DTypeError unless an array of this dtype can be such an argument."""
        if self.dtype is not None:
            if a.dtype.kind not in "iu" or not a.dtype.isnative:
                raise DTypeError(f"{who}: {name} must hold integers, got {a.dtype}")
        elif a.dtype not in FLOATS or not a.dtype.isnative:
            raise DTypeError(f"{who}: {name} must be float32 or float64, got {a.dtype}")


MAP = Role(gradient=True, maps=True)  # feature maps
DENSE = Role(gradient=True)  # learnt arrays of any shape: weights, a warp's theta
CONSTANT = Role()  # floats of any shape that nobody learns: wavelet filters, a graph's weights
INDEX = Role(dtype=np.dtype(np.int64))  # integers of any width: labels
RANDOM = Role(drawn=True)
MANY = Role(gradient=True, maps=True, many=True)
