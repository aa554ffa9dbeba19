"""Sums that keep their digits in the NumPy definitions: many float32 terms are added up in float64, rounded once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

SHORT = 64  # terms that are added up in the arrays' own dtype, as in C (SUM_RUN in simd.h)
RUN = 256  # the same for the terms of a matrix product, which BLAS adds up in parts


def total(a: np.ndarray, axis: Any, keepdims: bool = False) -> Any:
    """The sum along one axis or several, in a's dtype. (NumPy's own adds in pairs along the last axis alone; along any
    other it loses a digit with every tenfold of the terms.)"""
    return a.sum(axis=axis, keepdims=keepdims, dtype=_dtype(a, axis)).astype(a.dtype, copy=False)


def mean(a: np.ndarray, axis: Any, keepdims: bool = False) -> Any:
    """As `total`, for the mean."""
    return a.mean(axis=axis, keepdims=keepdims, dtype=_dtype(a, axis)).astype(a.dtype, copy=False)


def _dtype(a: np.ndarray, axis: Any) -> Any:
    axes = range(a.ndim) if axis is None else np.atleast_1d(axis)
    return a.dtype if math.prod(a.shape[k] for k in axes) <= SHORT else np.float64


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b of two matrices, in float64 where there are more than RUN terms."""
    if a.shape[1] <= RUN:
        return a @ b
    return (a.astype(np.float64, copy=False) @ b.astype(np.float64, copy=False)).astype(a.dtype, copy=False)
