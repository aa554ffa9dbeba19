"""IDX, the file format of MNIST: plain or gzipped, read by exact byte counts.

byte 0-1   0
byte 2     element type: 0x08, unsigned byte, is the only one MNIST uses and the only one read here
byte 3     number of axes, r
byte 4-    r sizes, each 4 bytes, big-endian
then       the elements in row-major order, and nothing behind them
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from typing import BinaryIO, cast

import numpy as np

from ..errors import FormatError
from ..paths import user_path
from .files import Path_

UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"
# Deflate's best case is one bit for each of two symbols that stand for 258 bytes: no gzip file grows more than this.
GZIP_MOST = 1032
CHUNK = 1 << 20


def read_idx(path: Path_, axes: int | None = None) -> np.ndarray:
    """The uint8 array in an IDX file of unsigned bytes, plain or gzipped.

    axes: how many axes it must have (3 for images, 1 for labels); any from 1 to 255 by default.

    Sizes are checked against the file's length before anything is allocated, memory grows with what was really read,
    and a gzipped file is inflated no further than one read buffer past what its header promises.

    Raises FormatError, which names the file and the field: a missing or unreadable file, a wrong magic number, element
    type or number of axes, sizes that the file cannot hold, truncation, bytes behind the end, damaged gzip.
    Source: http://yann.lecun.com/exdb/mnist ("the IDX file format").
    """
    name = os.fspath(path)
    try:
        with open(user_path(path), "rb") as file:
            zipped = file.read(2) == GZIP_MAGIC
            file.seek(0)
            length = os.fstat(file.fileno()).st_size
            if zipped:
                with gzip.GzipFile(fileobj=file) as inflated:
                    return _parse(name, cast(BinaryIO, inflated), length * GZIP_MOST, axes)
            return _parse(name, file, length, axes)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise FormatError(f"{name}: gzip: damaged or truncated ({error})") from None
    except OSError as error:
        raise FormatError(f"{name}: file: cannot be read ({error.strerror or error})") from None


def _parse(name: str, file: BinaryIO, most: int, axes: int | None) -> np.ndarray:
    """Read one array from `file`, which holds at most `most` bytes."""
    magic = _exactly(name, "magic", file, 4)
    if magic[:2] != b"\0\0":
        raise FormatError(f"{name}: magic: must begin with two zero bytes, got 0x{magic.hex()}")
    if magic[2] != UNSIGNED_BYTE:
        raise FormatError(f"{name}: element type: must be 0x08 (unsigned byte), got 0x{magic[2]:02x}")
    rank = magic[3]
    if rank == 0 or (axes is not None and rank != axes):
        raise FormatError(f"{name}: axes: must be {axes or 'at least 1'}, got {rank}")
    sizes = _exactly(name, "sizes", file, 4 * rank)
    shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
    count = math.prod(shape)
    if count > most:
        raise FormatError(f"{name}: sizes: {shape} need {count} bytes of data, the file cannot hold more than {most}")
    data = _exactly(name, "data", file, count)
    if file.read(1):
        raise FormatError(f"{name}: data: must end after the {count} bytes of {shape}, more follow")
    try:
        return np.frombuffer(data, np.uint8).reshape(shape)
    except ValueError:  # more than NumPy's 64 axes, or sizes that overflow beside one that is 0
        raise FormatError(f"{name}: sizes: NumPy has no array of {rank} axes with sizes {shape}") from None


def _exactly(name: str, field: str, file: BinaryIO, count: int) -> bytearray:
    data = bytearray()
    while piece := file.read(min(count - len(data), CHUNK)):
        data += piece
    if len(data) != count:
        raise FormatError(f"{name}: {field}: expected {count} bytes, the file ends after {len(data)}")
    return data
