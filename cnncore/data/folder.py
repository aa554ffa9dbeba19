"""Images in a folder for each class, as Caltech-101, Caltech-256 and UIUC's textures are distributed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError
from ..ops.geometry import per_axis
from .files import Images, Path_, need

ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".pgm", ".ppm"))
FORMATS = ("JPEG", "PNG", "PPM")  # Pillow knows more; each further parser is one more way in
MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"))  # 8 bits a channel or fewer
MOST = 1 << 26  # pixels of one image: 200 MB as RGB


def class_names(folder: Path_) -> list[str]:
    """The classes of a folder: the names of the folders in it, sorted. Label i means class_names(folder)[i]."""
    try:
        names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise FormatError(f"{os.fspath(folder)}: folder: cannot be read ({error.strerror or error})") from None
    if not names:
        raise FormatError(f"{os.fspath(folder)}: classes: must hold a folder for each class, it holds none")
    return names


def image_folder(folder: Path_, size: int | tuple[int, int]) -> Images:
    """(x, y) from folder/CLASS/IMAGE: x float32 (N, 3, H, W) in [0, 1], y int64 (N,), with H, W = size.

    Each image is scaled (bilinear, antialiased) until it just covers `size`, and cut in the middle. Grey ones get three
    equal maps; transparency is dropped. Classes are numbered in the order of `class_names`, and images sorted by name.
    Read are .jpg, .jpeg, .png, .pgm and .ppm, in capitals too; files with other endings are left out.

    Raises FormatError naming the file and the field: a folder without classes, a class without images, an image that
    Pillow cannot read as what its ending promises, that has more than 2^26 pixels (looked up before it is decoded) or
    more than 8 bits per channel. ShapeError for a size that is not two positive integers. CnncoreError without Pillow
    (the extra "data").
    """
    height, width = per_axis("image_folder", "size", size, 2, 1)
    need("PIL.Image", "reading images")
    files = [(label, path) for label, name in enumerate(class_names(folder)) for path in _images(Path(folder) / name)]
    x = np.empty((len(files), 3, height, width), np.float32)
    for i, (_, path) in enumerate(files):
        x[i] = np.divide(_pixels(path, height, width), 255, dtype=np.float32).transpose(2, 0, 1)
    return x, np.array([label for label, _ in files], np.int64)


def _images(folder: Path) -> list[Path]:
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
    except OSError as error:
        raise FormatError(f"{folder}: folder: cannot be read ({error.strerror or error})") from None
    if not found:
        raise FormatError(f"{folder}: images: a class must hold at least one ({', '.join(sorted(ENDINGS))})")
    return found


def _pixels(path: Path, height: int, width: int) -> np.ndarray:
    """One image as uint8 (H, W, 3)."""
    try:
        return _decode(path, height, width)
    except FormatError:
        raise
    except Exception as error:  # of a damaged file, Pillow raises whatever its parsers stumble over
        raise FormatError(f"{path}: image: cannot be read ({type(error).__name__}: {error})") from None


def _decode(path: Path, height: int, width: int) -> np.ndarray:
    Image: Any = need("PIL.Image", "reading images")
    ops: Any = need("PIL.ImageOps", "reading images")
    with Image.open(path, formats=FORMATS) as image:  # reads the header alone
        if image.width * image.height > MOST:
            raise FormatError(f"{path}: size: must be at most {MOST} pixels, got {image.width} x {image.height}")
        if image.mode not in MODES:
            raise FormatError(f"{path}: mode: must have at most 8 bits per channel, got {image.mode}")
        return np.asarray(ops.fit(image.convert("RGB"), (width, height), Image.Resampling.BILINEAR))
