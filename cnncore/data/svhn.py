"""SVHN, the street view house numbers (Netzer et al. 2011), format 2: cropped digits in MATLAB files."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError
from ..paths import user_path
from .files import Images, Path_, examples, need

DEFLATE_MOST = 1032  # what a byte of a compressed variable can become, at most; see idx.py
PIXELS = 3072
COMPRESSED = 15  # the type of a deflated variable in MATLAB's format 5
OVERHEAD = 1024  # more than the names and sizes beside a variable's elements take
PIECE = 1 << 14


def read_svhn(path: Path_) -> Images:
    """(x, y) from one file of cropped digits: x float32 (N, 3, 32, 32) in [0, 1], y int64 (N,) in 0..9.

    The file holds X, uint8 (32, 32, 3, N), and y, uint8 (N, 1), where 10 stands for the digit 0. Their sizes are
    checked in the file's directory before either is read, and what is deflated may not be larger than it says. Other
    variables are not read.

    Raises FormatError naming the file and the field: a file that SciPy cannot read, variables that are missing, twice
    there or of another type or shape, sizes that the file cannot hold, a label that is not 1 to 10. CnncoreError
    without SciPy (the extra "data").
    Source: http://ufldl.stanford.edu/housenumbers.
    """
    io = need("scipy.io", "reading SVHN")
    name, place = os.fspath(path), str(user_path(path))
    try:
        length = os.stat(place).st_size
    except OSError as error:
        raise FormatError(f"{name}: file: cannot be read ({error.strerror or error})") from None
    count = _check_directory(name, _guarded(name, lambda: io.whosmat(place, appendmat=False)), length)
    inflated = _guarded(name, lambda: _largest(place, count * PIXELS + OVERHEAD))
    if inflated > count * PIXELS + OVERHEAD:
        raise FormatError(f"{name}: X: a variable inflates to over {inflated} bytes, X has {count * PIXELS}")
    found = _guarded(name, lambda: io.loadmat(place, appendmat=False, variable_names=["X", "y"]))
    pixels, labels = found.get("X"), found.get("y")
    for field, a, shape in (("X", pixels, (32, 32, 3, count)), ("y", labels, (count, 1))):
        if not isinstance(a, np.ndarray) or a.shape != shape or a.dtype != np.uint8:
            raise FormatError(f"{name}: {field}: is not what the directory says")
    if not np.isin(labels, np.arange(1, 11)).all():
        raise FormatError(f"{name}: y: must be 1 to 10, got {labels.min()} to {labels.max()}")
    return examples(name, pixels.transpose(3, 2, 0, 1), labels[:, 0].astype(np.int64) % 10, 10)


def _guarded(name: str, read: Any) -> Any:
    """What SciPy reads. Of a file that is no MATLAB file it raises whatever its parser stumbles over."""
    try:
        return read()
    except Exception as error:
        raise FormatError(f"{name}: MATLAB file: cannot be read ({type(error).__name__}: {error})") from None


def _check_directory(name: str, directory: list[tuple[str, tuple[int, ...], str]], length: int) -> int:
    """The number of digits, from the names, shapes and types of a file's variables."""
    found = {}
    for field in ("X", "y"):
        entries = [(shape, kind) for variable, shape, kind in directory if variable == field]
        if len(entries) != 1 or entries[0][1] != "uint8":
            raise FormatError(f"{name}: {field}: must be there once and be uint8, got {[k for _, k in entries]}")
        found[field] = entries[0][0]
    count = found["X"][-1]
    if found["X"] != (32, 32, 3, count) or count < 1:
        raise FormatError(f"{name}: X: must have shape (32, 32, 3, N), got {found['X']}")
    if found["y"] != (count, 1):
        raise FormatError(f"{name}: y: must have shape ({count}, 1), got {found['y']}")
    if count * PIXELS > length * DEFLATE_MOST:
        raise FormatError(f"{name}: X: {count} digits need {count * PIXELS} bytes, the file cannot hold as many")
    return count


def _largest(path: str, enough: int) -> int:
    """The inflated size of the largest deflated variable, looked for no further than the first above `enough`."""
    largest = 0
    with open(path, "rb") as file:
        order = "<" if file.read(128)[126:] == b"IM" else ">"
        while largest <= enough and len(tag := file.read(8)) == 8:
            kind, left = struct.unpack(f"{order}II", tag)
            if kind != COMPRESSED:
                file.seek(left, os.SEEK_CUR)
                continue
            stream, size = zlib.decompressobj(), 0
            while size <= enough and (piece := file.read(min(left, PIECE))):
                left -= len(piece)
                size += len(stream.decompress(piece))
            largest = max(largest, size)
    return largest


def svhn(folder: Path_) -> tuple[Images, Images]:
    """SVHN, (train_x, train_y), (test_x, test_y), from a folder with train_32x32.mat and test_32x32.mat."""
    return read_svhn(Path(folder) / "train_32x32.mat"), read_svhn(Path(folder) / "test_32x32.mat")
