"""Images in a folder for each class, as Caltech-101, Caltech-256 and UIUC's textures are distributed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError
from ..ops.geometry import per_axis
from ..paths import user_path
from .files import Images, Path_, need

ENDINGS = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".pbm", ".pgm", ".pnm", ".ppm"))
FORMATS = ("JPEG", "PNG", "PPM")  # Pillow knows more; each further parser is one more way in
UNREAD = frozenset((".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".mpo", ".tif", ".tiff", ".webp"))
# What Macs, network drives, Windows and Linux put beside people's folders.
NO_CLASSES = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"))
MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"))  # 8 bits a channel or fewer
ORIENTATION = 0x0112  # EXIF's tag for how the camera was held
UPRIGHT = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
           7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip
MOST = 1 << 26  # pixels of one image: 200 MB as RGB


def class_names(folder: Path_) -> list[str]:
    """The classes of a folder: the names of the folders in it, sorted. Label i means class_names(folder)[i].

    Hidden folders (a dot in front) and those that systems leave behind (__MACOSX, ...) are no classes. Raises
    FormatError where there are none.
    """
    try:
        found = [e.name for e in os.scandir(user_path(folder)) if e.is_dir() and not e.name.startswith(".")]
    except OSError as error:
        raise FormatError(f"{os.fspath(folder)}: folder: cannot be read ({error.strerror or error})") from None
    names = sorted(set(found) - NO_CLASSES)
    if not names:
        raise FormatError(f"{os.fspath(folder)}: classes: must hold a folder for each class, it holds none")
    return names


def image_folder(folder: Path_, size: int | tuple[int, int]) -> Images:
    """(x, y) from folder/CLASS/IMAGE: x float32 (N, 3, H, W) in [0, 1], y int64 (N,), with H, W = size.

    Each image is turned upright (by its EXIF orientation), scaled (bilinear, antialiased) until it just covers `size`,
    and cut in the middle. Grey ones get three equal maps. Transparency is dropped. Colour profiles are not applied. Red
    of a CMYK image is (1 - C)(1 - K). Of a photograph with previews behind it (MPO) the first image is read.

    Classes are numbered in the order of `class_names`, and images sorted by name. Read are JPEG, PNG and PNM files, by
    their endings (.jpg, .jpeg, .jpe, .jfif, .png, .pbm, .pgm, .pnm, .ppm, in capitals too). Hidden files (a dot in
    front, as ._1.jpg) and files that are no images are left out.

    Raises FormatError naming the file and the field: a folder without classes, a class without images, an image of
    another format (.gif, .tif, .webp, ...), one that Pillow cannot read, that is animated, that has more than 2^26
    pixels (looked up before it is decoded) or more than 8 bits per channel. ShapeError for a size that is not two
    positive integers. CnncoreError without Pillow (the extra "data").
    """
    height, width = per_axis("image_folder", "size", size, 2, 1)
    need("PIL.Image", "reading images")
    files = [
        (label, path) for label, name in enumerate(class_names(folder)) for path in _images(user_path(folder) / name)
    ]
    x = np.empty((len(files), 3, height, width), np.float32)
    for i, (_, path) in enumerate(files):
        x[i] = np.divide(_pixels(path, height, width), 255, dtype=np.float32).transpose(2, 0, 1)
    return x, np.array([label for label, _ in files], np.int64)


def _images(folder: Path) -> list[Path]:
    try:
        shown = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        seen = [path for path in shown if path.is_file() or not path.exists()]  # a link to nowhere is an image missing
    except OSError as error:
        raise FormatError(f"{folder}: folder: cannot be read ({error.strerror or error})") from None
    for path in seen:
        if path.suffix.lower() in UNREAD:
            raise FormatError(f"{path}: format: must be JPEG, PNG or PNM ({', '.join(sorted(ENDINGS))})")
    found = [path for path in seen if path.suffix.lower() in ENDINGS]
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
        if image.mode not in MODES or _is_deep(image):
            raise FormatError(f"{path}: mode: must have at most 8 bits per channel, got {_layout(image)}")
        if image.format == "PNG" and image.is_animated:
            raise FormatError(f"{path}: frames: must be one, got {image.n_frames}")
        image.load()
        turn = UPRIGHT.get(_orientation(image))
        turned = image.transpose(Image.Transpose[turn]) if turn else image
        if turned.mode == "P":  # Pillow warns of transparency that it drops from a palette
            turned = turned.convert("RGBA")
        return np.asarray(ops.fit(turned.convert("RGB"), (width, height), Image.Resampling.BILINEAR))


def _layout(image: Any) -> Any:
    """How the pixels lie in the file: Pillow's name for that or, of a PNM file, (name, largest value)."""
    return image.tile[0][3]


def _is_deep(image: Any) -> bool:
    """Whether the file has more than 8 bits per channel. The mode does not tell: Pillow may drop bits as it decodes."""
    layout = _layout(image)
    if image.format == "PPM":
        return isinstance(layout, tuple) and layout[1] > 255
    return image.format == "PNG" and ";16" in layout


def _orientation(image: Any) -> int:
    """EXIF's number for how the camera was held; 1, upright, where there is none."""
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF says nothing; the pixels are whole, and have been decoded
        return 1
    return found if isinstance(found, int) else 1
