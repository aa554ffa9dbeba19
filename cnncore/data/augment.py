"""Augmentation: functions `augment(x, rng)` that a Trainer calls on every batch of training images."""

from __future__ import annotations

import numpy as np

from ..backends import memory
from ..errors import ShapeError
from ..loader import Augment
from ..ops.geometry import integer


def shift(k: int) -> Augment:
    """Move every image by up to k pixels along each axis, each of the (2k + 1)^2 moves as likely; zeros move in.

    What is returned takes x (N, C, H, W) and a NumPy Generator, and gives an array of x's shape and dtype; with k = 0
    it gives x itself. Raises ShapeError for a negative k or an x of another rank.
    """
    return Shift(integer("shift", "k", k, 0))


class Shift:
    """`shift(k)`, as an object that tells its k: a run that is resumed is compared with it."""

    def __init__(self, k: int) -> None:
        self.k = k

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if x.ndim != 4:
            raise ShapeError(f"shift: x must be (N, C, H, W), got shape {x.shape}")
        k = self.k
        if k == 0:
            return x
        moved = memory.empty(x.shape, x.dtype)
        moved[...] = 0
        for image, target, down, right in zip(x, moved, *(k - rng.integers(0, 2 * k + 1, (2, len(x)))), strict=True):
            (to_y, from_y), (to_x, from_x) = _overlap(down, x.shape[2]), _overlap(right, x.shape[3])
            target[:, to_y, to_x] = image[:, from_y, from_x]
        return moved

    def __repr__(self) -> str:
        return f"shift({self.k})"


def _overlap(move: int, size: int) -> tuple[slice, slice]:
    """Where what moves by `move` comes to stand along an axis, and where it is from; nothing if it moves out."""
    start, stop = min(max(move, 0), size), max(min(size + move, size), 0)
    return slice(start, stop), slice(start - move, stop - move)
