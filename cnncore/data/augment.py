"""Augmentation: functions `augment(x, rng)` that a Trainer calls on every batch of training images."""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError
from ..loader import Augment
from ..ops.geometry import integer


def shift(k: int) -> Augment:
    """Move every image by up to k pixels along each axis, each of the (2k + 1)^2 moves as likely; zeros move in.

    The function returned takes x (N, C, H, W) and a NumPy Generator, and gives an array of x's shape and dtype; with
    k = 0 it gives x itself. Raises ShapeError for a negative k or an x of another rank.
    """
    k = integer("shift", "k", k, 0)

    def augment(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if x.ndim != 4:
            raise ShapeError(f"shift: x must be (N, C, H, W), got shape {x.shape}")
        if k == 0:
            return x
        padded = np.pad(x, ((0, 0), (0, 0), (k, k), (k, k)))
        # moves[n, :, i, j] is image n moved by (k - i, k - j): a view, so that only the chosen ones are copied.
        moves = np.lib.stride_tricks.sliding_window_view(padded, x.shape[2:], axis=(2, 3))
        down, right = rng.integers(0, 2 * k + 1, (2, len(x)))
        return np.ascontiguousarray(moves[np.arange(len(x)), :, down, right])

    return augment
