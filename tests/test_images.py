"""SVHN's MATLAB files, and folders of images."""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import cnncore as cc
from cnncore.data import class_names, image_folder, read_svhn, svhn
from cnncore.errors import install_hint

FILES = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def fault(path: Path, read=read_svhn) -> str:
    """What a FormatError says about a file, behind its name."""
    with pytest.raises(cc.FormatError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# --- SVHN ---


def digits(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 11, (count, 1), np.uint8)
    return {"X": rng.integers(0, 256, (32, 32, 3, count), np.uint8), "y": labels}


def matlab(content: dict[str, np.ndarray], compressed: bool = True) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, content, do_compression=compressed)
    return file.getvalue()


def check_digits(found, content: dict[str, np.ndarray]) -> None:
    x, y = found
    assert x.dtype == np.float32 and y.dtype == np.int64 and x.flags.c_contiguous
    assert x.shape == (len(content["y"]), 3, 32, 32)
    for n in range(len(y)):
        np.testing.assert_array_equal(x[n], content["X"][..., n].transpose(2, 0, 1).astype(np.float32) / 255)
        assert y[n] == content["y"][n, 0] % 10


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("count", [1, 2, 11])
def test_svhn(tmp_path: Path, count: int, compressed: bool) -> None:
    content = digits(count)
    (tmp_path / "a.mat").write_bytes(matlab({**content, "other": np.arange(5.0)}, compressed))
    check_digits(read_svhn(tmp_path / "a.mat"), content)
    check_digits(read_svhn(str(tmp_path / "a.mat")), content)


def test_whole_svhn(tmp_path: Path) -> None:
    (tmp_path / "train_32x32.mat").write_bytes(matlab(digits(5)))
    (tmp_path / "test_32x32.mat").write_bytes(matlab(digits(3, 1)))
    train, test = svhn(tmp_path)
    check_digits(train, digits(5))
    check_digits(test, digits(3, 1))


GOOD = digits(3)
WRONG = {
    "no X": ({"y": GOOD["y"]}, "X: must be there once and be uint8, got []"),
    "no y": ({"X": GOOD["X"]}, "y: must be there once and be uint8, got []"),
    "X of floats": ({**GOOD, "X": GOOD["X"] / 255}, "X: must be there once and be uint8, got ['double']"),
    "y of floats": ({**GOOD, "y": GOOD["y"] / 1}, "y: must be there once and be uint8, got ['double']"),
    "X of cells": ({**GOOD, "X": np.array([[1], "a"], object)}, "X: must be there once and be uint8, got ['cell']"),
    "other images": ({**GOOD, "X": GOOD["X"][:28, :28]}, "X: must have shape (32, 32, 3, N), got (28, 28, 3, 3)"),
    "grey images": ({**GOOD, "X": GOOD["X"][:, :, 0]}, "X: must have shape (32, 32, 3, N), got (32, 32, 3)"),
    "no images": ({"X": GOOD["X"][..., :0], "y": GOOD["y"]}, "X: must have shape"),
    "too few labels": ({**GOOD, "y": GOOD["y"][:2]}, "y: must have shape (3, 1), got (2, 1)"),
    "a label 0": ({**GOOD, "y": GOOD["y"] * 0}, "y: must be 1 to 10, got 0 to 0"),
    "a label 11": ({**GOOD, "y": GOOD["y"] * 0 + 11}, "y: must be 1 to 10, got 11 to 11"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_variables(tmp_path: Path, case: str) -> None:
    content, want = WRONG[case]
    (tmp_path / "a.mat").write_bytes(matlab(content))
    assert fault(tmp_path / "a.mat").startswith(want)


def test_a_variable_twice(tmp_path: Path) -> None:
    one, two = matlab(GOOD), matlab(GOOD)
    (tmp_path / "a.mat").write_bytes(one + two[128:])
    assert fault(tmp_path / "a.mat").startswith("X: must be there once")


@pytest.mark.parametrize("content", [b"", b"x", bytes(200), b"\x89HDF\r\n\x1a\n" + bytes(600)])
def test_no_matlab_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    assert fault(tmp_path / "a.mat").split(":")[0] in ("MATLAB file", "X")


def test_missing_matlab_file(tmp_path: Path) -> None:
    assert fault(tmp_path / "a.mat").startswith("file: cannot be read")
    assert fault(tmp_path).startswith("MATLAB file: cannot be read")


def test_claimed_size_is_checked_before_memory_is_asked_for(tmp_path: Path) -> None:
    """20 million digits, 61 GB, in a file of 6 kB; and the same in a compressed variable."""
    plain = matlab(digits(2), compressed=False)
    shapes = struct.pack("<4i", 32, 32, 3, 2), struct.pack("<2i", 2, 1)
    claimed = struct.pack("<4i", 32, 32, 3, 20_000_000), struct.pack("<2i", 20_000_000, 1)
    for found, claim in zip(shapes, claimed, strict=True):
        assert plain.count(found) == 1
        plain = plain.replace(found, claim)
    (tmp_path / "a.mat").write_bytes(plain)
    assert fault(tmp_path / "a.mat").startswith("X: 20000000 digits need 61440000000 bytes, the file cannot hold")
    variables = zlib.compress(plain[128:])
    (tmp_path / "b.mat").write_bytes(plain[:128] + struct.pack("<II", 15, len(variables)) + variables)
    assert fault(tmp_path / "b.mat").split(":")[0] in ("X", "y", "MATLAB file")


@pytest.mark.parametrize("first", ["X", "y"])
def test_a_variable_that_inflates_to_more_than_it_says(tmp_path: Path, monkeypatch, first: str) -> None:
    """X says that it has two digits, and goes on for 16 MB (it could be 4 GB). That is noticed before it is read."""
    plain = matlab(digits(2), compressed=False)
    at, more = plain.index(struct.pack("<II", 2, 6144)), 1 << 24
    start = struct.pack("<II", 14, at - 136 + more) + plain[136:at] + struct.pack("<II", 2, more)
    deflate = zlib.compressobj()
    bomb = deflate.compress(start) + deflate.compress(bytes(more)) + deflate.flush()
    variables = [struct.pack("<II", 15, len(bomb)) + bomb, matlab({"y": digits(2)["y"]})[128:]]
    (tmp_path / "a.mat").write_bytes(plain[:128] + b"".join(variables if first == "X" else variables[::-1]))
    monkeypatch.setattr(scipy.io, "loadmat", lambda *args, **options: pytest.fail("it was read"))
    assert fault(tmp_path / "a.mat").startswith("X: a variable inflates to over")


def test_every_truncation_of_svhn(tmp_path: Path) -> None:
    content = matlab(GOOD)
    for length in [*range(0, len(content) - 1, 97), len(content) - 1]:
        (tmp_path / "a.mat").write_bytes(content[:length])
        fault(tmp_path / "a.mat")


def test_without_scipy(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(cc.CnncoreError, match=re.escape(f"reading SVHN needs scipy: {install_hint('data')}")):
        read_svhn(tmp_path / "a.mat")


# --- folders of images ---


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 6), mode: str = "RGB", seed: int = 0) -> bytes:
    """An image file of a size (width, height)."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read_folder(path: Path):
    return image_folder(path.parent.parent, 4)


def test_images_by_class(tmp_path: Path) -> None:
    files = {"b/2.png": picture(seed=2), "b/1.PNG": picture(seed=1), "a/x.ppm": picture("PPM", seed=3)}
    others = {"b/notes.txt": b"no image", "b/.png": b"", "README": b"no class", ".git/1.png": picture()}
    x, y = image_folder(tree(tmp_path, files | others), (6, 8))
    assert class_names(tmp_path) == ["a", "b"]
    assert x.shape == (3, 3, 6, 8) and x.dtype == np.float32 and y.dtype == np.int64
    np.testing.assert_array_equal(y, [0, 1, 1])
    for found, seed in zip(x, (3, 1, 2), strict=True):
        want = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
        np.testing.assert_array_equal(found, want.transpose(2, 0, 1).astype(np.float32) / 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_three_maps(tmp_path: Path, mode: str) -> None:
    x, _ = image_folder(tree(tmp_path, {"a/1.png": picture(mode=mode)}), (6, 8))
    assert x.shape == (1, 3, 6, 8) and x.min() >= 0 and 0.5 < x.max() <= 1
    if mode in ("1", "L", "LA"):
        np.testing.assert_array_equal(x[:, 0], x[:, 2])


def test_jpeg_and_grey_pgm(tmp_path: Path) -> None:
    files = {"a/1.jpg": picture("JPEG"), "a/2.JPEG": picture("JPEG", mode="CMYK"), "a/3.pgm": picture("PPM", mode="L")}
    x, y = image_folder(tree(tmp_path, files), (6, 8))
    assert x.shape == (3, 3, 6, 8) and not y.any()


def test_scaled_to_cover_and_cut_in_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, :10], pixels[:, 15:25], pixels[:, 30:] = 255, (255, 0, 0), 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    x, _ = image_folder(tree(tmp_path, {"a/wide.png": file.getvalue()}), 5)
    assert x.shape == (1, 3, 5, 5)  # what is left are the middle 10 x 10
    np.testing.assert_array_equal(x[0, 0, :, 1:4], 1)
    np.testing.assert_array_equal(x[0, 1:], 0)
    up, _ = image_folder(tmp_path, (20, 20))
    np.testing.assert_array_equal(up[0, 0, :, 2:-2], 1)


def test_very_thin_images(tmp_path: Path) -> None:
    files = {"a/1.png": picture(size=(1, 900)), "a/2.png": picture(size=(900, 1)), "a/3.png": picture(size=(1, 1))}
    x, _ = image_folder(tree(tmp_path, files), (5, 7))
    assert x.shape == (3, 3, 5, 7) and x.min() >= 0 and x.max() <= 1


def test_folders_without_images(tmp_path: Path) -> None:
    assert fault(tmp_path, class_names).startswith("classes: must hold a folder for each class")
    assert fault(tmp_path / "none", class_names).startswith("folder: cannot be read")
    tree(tmp_path, {"a/1.png": picture(), "b/notes.txt": b""})
    assert fault(tmp_path / "b", lambda path: image_folder(path.parent, 4)).startswith("images: a class must hold")


@pytest.mark.parametrize("size", [0, -1, 2.5, "4", (4,), (4, 4, 4), None])
def test_sizes_that_are_none(tmp_path: Path, size) -> None:
    with pytest.raises(cc.ShapeError, match="image_folder: size must"):
        image_folder(tree(tmp_path, {"a/1.png": picture()}), size)


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size, and whose pixels are zeros, well compressed."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


NO_IMAGES = {
    "empty.png": (b"", "image: cannot be read"),
    "text.jpg": (b"no image", "image: cannot be read"),
    "gif.png": (picture("GIF"), "image: cannot be read"),
    "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image: cannot be read"),
    "half.png": (picture()[:-30], "image: cannot be read"),
    "half.jpg": (picture("JPEG", (64, 64))[:-300], "image: cannot be read"),
    "half.ppm": (picture("PPM")[:-1], "image: cannot be read"),
    "bomb.png": (bomb(8192, 8193), "size: must be at most 67108864 pixels, got 8192 x 8193"),
    "giant.png": (bomb(1 << 20, 1 << 20), "image: cannot be read (DecompressionBombError"),
    "claims.png": (bomb(8192, 8192), "image: cannot be read"),
    "claims.ppm": (b"P6 99999 99999 255\nabc", "image: cannot be read (DecompressionBombError"),
    "deep.pgm": (b"P5 2 2 65535\n" + bytes(8), "mode: must have at most 8 bits per channel"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_no_image(tmp_path: Path, name: str) -> None:
    content, want = NO_IMAGES[name]
    path = tmp_path / "a" / name
    tree(tmp_path, {f"a/{name}": content})
    assert fault(path, read_folder).startswith(want)


@FILES
@given(st.data())
def test_damaged_images_give_an_error_or_an_image(tmp_path: Path, data) -> None:
    kind, ending = data.draw(st.sampled_from([("PNG", "png"), ("JPEG", "jpg"), ("PPM", "ppm")]))
    content = bytearray(picture(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    tree(tmp_path, {f"a/1.{ending}": bytes(content)})
    try:
        x, _ = image_folder(tmp_path, 4)
    except cc.FormatError as error:
        assert str(error).startswith(str(tmp_path / "a" / f"1.{ending}"))
    else:
        assert x.shape == (1, 3, 4, 4)
    (tmp_path / "a" / f"1.{ending}").unlink()


def test_without_pillow(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(cc.CnncoreError, match=re.escape(f"reading images needs pillow: {install_hint('data')}")):
        image_folder(tree(tmp_path, {"a/1.png": b""}), 4)
