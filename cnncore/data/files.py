"""What the readers of image files share. A file is hostile until it is parsed: errors name it, and the field."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

from ..errors import CnncoreError, FormatError, install_hint

Path_ = str | os.PathLike[str]
Images = tuple[np.ndarray, np.ndarray]  # x float32 (N, C, H, W) in [0, 1], y int64 (N,)


def read_bytes(path: Path_) -> bytes:
    """The whole file. Raises FormatError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise FormatError(f"{os.fspath(path)}: file: cannot be read ({error.strerror or error})") from None


def examples(name: str, pixels: np.ndarray, labels: np.ndarray, classes: int) -> Images:
    """(x, y) from what file `name` holds: uint8 pixels (N, C, H, W) and integer labels (N,), 0 to classes - 1."""
    if len(labels) != len(pixels):
        raise FormatError(f"{name}: labels: must be one for each of the {len(pixels)} images, got {len(labels)}")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise FormatError(f"{name}: labels: must be 0 to {classes - 1}, got {labels[wrong[0]]} at index {wrong[0]}")
    return np.divide(pixels, 255, dtype=np.float32, order="C"), labels.astype(np.int64)


def need(module: str, purpose: str) -> Any:
    """Import a module of the extra "data", or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = {"PIL": "pillow"}.get(module.split(".")[0], module.split(".")[0])
        raise CnncoreError(f"{purpose} needs {package}: {install_hint('data')}") from None
