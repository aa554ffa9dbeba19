"""Sums that keep their digits in the NumPy definitions: float32 terms are added up in float64, and rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np

RUN = 256  # terms of a matrix product that BLAS adds up in the arrays' own dtype


def total(a: np.ndarray, axis: Any, keepdims: bool = False) -> Any:
    """The sum along one axis or several, in a's dtype. (NumPy's own adds in pairs along the last axis alone; along any
    other it loses a digit with every tenfold of the terms.)"""
    return a.sum(axis=axis, keepdims=keepdims, dtype=np.float64).astype(a.dtype)


def mean(a: np.ndarray, axis: Any, keepdims: bool = False) -> Any:
    """As `total`, for the mean."""
    return a.mean(axis=axis, keepdims=keepdims, dtype=np.float64).astype(a.dtype)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b of two matrices, in float64 where there are more than RUN terms."""
    if a.shape[1] <= RUN:
        return a @ b
    return (a.astype(np.float64, copy=False) @ b.astype(np.float64, copy=False)).astype(a.dtype, copy=False)
