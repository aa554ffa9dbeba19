"""MNIST: the 10,000 digits that ship with cnncore, and readers for the full set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import FormatError
from .files import Path_, first_file
from .idx import read_idx

Digits = tuple[np.ndarray, np.ndarray]

SIDE = 28
CLASSES = 10
TRAIN = 8000  # of the embedded 10,000


def read_digits(images: Path_, labels: Path_) -> Digits:
    """(x, y) from a pair of IDX files: x float32 (N, 1, 28, 28) in [0, 1], y int64 (N,) in 0..9.

    Raises FormatError naming the file and the field: all that `read_idx` refuses, images that are not 28 x 28, another
    number of labels than of images, a label above 9.
    """
    pixels, y = read_idx(images, 3), read_idx(labels, 1)
    if pixels.shape[1:] != (SIDE, SIDE):
        raise FormatError(f"{os.fspath(images)}: sizes: images must be {SIDE} x {SIDE}, got {pixels.shape[1:]}")
    if len(y) != len(pixels):
        raise FormatError(
            f"{os.fspath(labels)}: sizes: must hold a label for each of the {len(pixels)} images, got {len(y)}"
        )
    if len(y) and y.max() >= CLASSES:
        raise FormatError(f"{os.fspath(labels)}: data: labels must be 0 to 9, got {y.max()} at index {y.argmax()}")
    x = np.divide(pixels, 255, dtype=np.float32)[:, np.newaxis]
    return x, y.astype(np.int64)


def mnist10k() -> tuple[Digits, Digits]:
    """The embedded digits, (train_x, train_y), (test_x, test_y): 8,000 and 2,000 real handwritten ones.

    x float32 (N, 1, 28, 28) in [0, 1], y int64 (N,) in 0..9. Source: mnist10k-source.txt, beside the files.
    """
    folder = Path(__file__).parent
    x, y = read_digits(folder / "mnist10k-images-idx3-ubyte.gz", folder / "mnist10k-labels-idx1-ubyte.gz")
    return (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:])


def mnist(folder: Path_) -> tuple[Digits, Digits]:
    """Full MNIST, (train_x, train_y), (test_x, test_y) as `mnist10k` gives them, from a folder with its four files.

    The files have MNIST's own names (train-images-idx3-ubyte, ...) or the other spelling in use
    (train-images.idx3-ubyte, ...), plain or with .gz. Raises FormatError.
    """

    def find(part: str, kind: str) -> Path:
        own, other = f"{part}-{kind}", f"{part}.{kind}"
        return first_file(folder, (own, other, f"{other}.gz", f"{own}.gz"))

    train, test = (
        read_digits(find(f"{part}-images", "idx3-ubyte"), find(f"{part}-labels", "idx1-ubyte"))
        for part in ("train", "t10k")
    )
    return train, test
