"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), both as binary files and as the pickles of the "python version".

A binary record is its labels, a byte each (CIFAR-100 has two: coarse, fine), and 3072 bytes: a red, a green and a blue
32 x 32 plane. A pickle is a dict; its "data" is uint8 (N, 3072), in the same order. It may be the original, which
Python 2 wrote, or one that a later Python dumped again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CnncoreError, FormatError
from .files import Images, Path_, examples, first_file, read_bytes
from .unpickle import Made, unpickle

SHAPE = (3, 32, 32)
PIXELS = 3072
# Number of classes -> the key of their labels in a pickle; label bytes of a binary record; which of them is meant.
LABELS = {10: ("labels", 1, 0), 20: ("coarse_labels", 2, 0), 100: ("fine_labels", 2, 1)}


def read_cifar(path: Path_, classes: int) -> Images:
    """(x, y) from one file of CIFAR: x float32 (N, 3, 32, 32) in [0, 1], y int64 (N,) in 0 to classes - 1.

    classes: 10 for a file of CIFAR-10; for CIFAR-100, 100 for its fine or 20 for its coarse labels. A name that ends in
    .bin is a binary file, any other a pickle, of which nothing is executed (see unpickle.py).

    Raises FormatError naming the file and the field: not a whole number of records, all that `unpickle` refuses, data
    or labels that are missing or of another type or size, a label out of range.
    Source: https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    if classes not in LABELS:
        raise CnncoreError(f"read_cifar: classes must be 10, 20 or 100, got {classes!r}")
    name, content = os.fsdecode(path), read_bytes(path)
    pixels, labels = (_binary if name.endswith(".bin") else _pickled)(name, content, classes)
    return examples(name, pixels.reshape(-1, *SHAPE), labels, classes)


def _binary(name: str, content: bytes, classes: int) -> Images:
    _, bytes_of_labels, which = LABELS[classes]
    record = bytes_of_labels + PIXELS
    if not content or len(content) % record:
        raise FormatError(f"{name}: records: must be whole ones of {record} bytes, the file has {len(content)} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, bytes_of_labels:], records[:, which].astype(np.int64)


def _pickled(name: str, content: bytes, classes: int) -> Images:
    key = LABELS[classes][0]
    found = unpickle(name, content)
    missing = [k for k in ("data", key) if k not in found]
    if missing:
        raise FormatError(f"{name}: {missing[0]}: is missing")
    data = found["data"]
    if not isinstance(data, Made):
        raise FormatError(f"{name}: data: must be an array, got {type(data).__name__}")
    try:
        pixels = data.array(np.uint8)
    except ValueError as error:
        raise FormatError(f"{name}: data: {error}") from None
    if pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise FormatError(f"{name}: data: must have shape (N, {PIXELS}), got {pixels.shape}")
    try:
        return pixels, _labels(found[key])
    except ValueError as error:
        raise FormatError(f"{name}: {key}: must be a list of integers or an array (N,) of them: {error}") from None


def _labels(found: Any) -> np.ndarray:
    """Labels (N,): from an array, or from a list of integers, Python's or NumPy's. Raises ValueError."""
    if isinstance(found, Made):
        labels = found.array()
        if labels.ndim != 1:
            raise ValueError(f"the shape is {labels.shape}")
        return labels
    if type(found) is not list:
        raise ValueError(f"it is a {type(found).__name__}")
    numbers = [label.number() if isinstance(label, Made) else label for label in found]
    for number in numbers:
        if type(number) is not int or abs(number) >= 2**31:
            raise ValueError(f"a {type(number).__name__} is no label")
    return np.array(numbers, np.int64)


def cifar10(folder: Path_) -> tuple[Images, Images]:
    """CIFAR-10, (train_x, train_y), (test_x, test_y), from a folder with its six files (binary, or the python version).

    x float32 (N, 3, 32, 32) in [0, 1], y int64 (N,) in 0..9. Raises FormatError as `read_cifar` does.
    """
    parts = [read_cifar(_find(folder, f"data_batch_{i}"), 10) for i in range(1, 6)]
    train = np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
    return train, read_cifar(_find(folder, "test_batch"), 10)


def cifar100(folder: Path_, *, coarse: bool = False) -> tuple[Images, Images]:
    """CIFAR-100 from a folder with its files train and test, as `cifar10`; y is in 0..99, or 0..19 where `coarse`."""
    classes = 20 if coarse else 100
    return read_cifar(_find(folder, "train"), classes), read_cifar(_find(folder, "test"), classes)


def _find(folder: Path_, name: str) -> Path:
    return first_file(folder, (f"{name}.bin", name))
