"""Folders of images."""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import cnncore as cc
from cnncore.data import class_names, image_folder
from cnncore.errors import install_hint

FILES = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def fault(path: Path, read) -> str:
    """What a FormatError says about a file, behind its name."""
    with pytest.raises(cc.FormatError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 6), mode: str = "RGB", seed: int = 0) -> bytes:
    """An image file of a size (width, height)."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
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


Chunks = dict[bytes, bytes]


def png(
    width: int, height: int, rows: bytes, depth: int = 8, kind: int = 2, before: Chunks | None = None,
    after: Chunks | None = None,
) -> bytes:  # fmt: skip
    """A PNG: rows with a filter byte before each, depth, colour type, and chunks before and after the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), *(before or {}).items(), (b"IDAT", zlib.compress(rows)), *(after or {}).items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in [*chunks, (b"IEND", b"")]
    )


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size, and whose pixels are zeros, well compressed."""
    return png(width, height, bytes(1 << 20))


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """A file as Pillow writes it, of black pixels."""
    file = io.BytesIO()
    Image.new(mode, (8, 6)).save(file, kind, **options)
    return file.getvalue()


FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (8, 6), "white")]}
DEEP = "mode: must have at most 8 bits per channel"
OTHER = "format: must be JPEG, PNG or PNM"


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
    "deep.pgm": (b"P5 2 2 65535\n" + bytes(8), DEEP),
    "deep.ppm": (b"P6 2 2 65535\n" + bytes(24), DEEP),
    "twelve_bits.ppm": (b"P6 2 2 4095\n" + bytes(24), DEEP),
    "plain.ppm": (b"P3 1 1 300\n0 1 2\n", DEEP),
    "float.pnm": (b"Pf 2 2 -1.0\n" + bytes(16), DEEP),
    "deep_grey.png": (png(1, 2, bytes(6), 16, 0), DEEP),
    "deep_rgb.png": (png(1, 2, bytes(14), 16, 2), f"{DEEP}, got RGB;16B"),
    "deep_grey_alpha.png": (png(1, 2, bytes(10), 16, 4), f"{DEEP}, got LA;16B"),
    "deep_rgb_alpha.png": (png(1, 2, bytes(18), 16, 6), f"{DEEP}, got RGBA;16B"),
    "deep_key.png": (png(1, 2, bytes(14), 16, 2, {b"tRNS": bytes(6)}), DEEP),
    "animated.png": (encoded("PNG", **FRAMES), "frames: must be one, got 2"),
    "twelve.jpg": (picture("JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), "image: cannot be read"),
    "lfs.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "image: cannot be read"),
    "animated.gif": (encoded("GIF", **FRAMES), OTHER),
    "still.GIF": (encoded("GIF"), OTHER),
    "float.tif": (encoded("TIFF", "F"), OTHER),
    "pages.TIFF": (encoded("TIFF", **FRAMES), OTHER),
    "a.bmp": (encoded("BMP"), OTHER),
    "a.webp": (b"RIFF", OTHER),
    "animated.apng": (encoded("PNG", **FRAMES), OTHER),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_no_image(tmp_path: Path, name: str) -> None:
    content, want = NO_IMAGES[name]
    path = tmp_path / "a" / name
    tree(tmp_path, {f"a/{name}": content})
    assert fault(path, read_folder).startswith(want)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_every_depth_of_grey(tmp_path: Path, depth: int, interlaced: bool) -> None:
    """One pixel of each grey in a row of its own: a value v of 2^depth - 1 is v / (2^depth - 1)."""
    most = (1 << depth) - 1
    values = np.linspace(0, most, 5).astype(int)
    content = [png(1, 1, bytes([0, v << (8 - depth)]), depth, 0) for v in values]
    if interlaced:  # of one pixel, the first of the seven passes is all there is
        content = [c.replace(c[8:33], interlace(c[8:33])) for c in content]
    x, _ = image_folder(tree(tmp_path, {f"a/{i}.png": c for i, c in enumerate(content)}), 1)
    np.testing.assert_array_equal(x, np.broadcast_to(np.float32(values / most).reshape(-1, 1, 1, 1), (5, 3, 1, 1)))


def interlace(header: bytes) -> bytes:
    named = header[4:-5] + b"\1"
    return header[:4] + named + struct.pack(">I", zlib.crc32(named))


@pytest.mark.parametrize("largest", [1, 9, 100, 254, 255])
@pytest.mark.parametrize("magic", [b"P5", b"P2"])
def test_pgm_of_every_largest_value(tmp_path: Path, largest: int, magic: bytes) -> None:
    values = [0, largest // 2, largest]
    pixels = bytes(values) if magic == b"P5" else " ".join(map(str, values)).encode()
    x, _ = image_folder(tree(tmp_path, {"a/1.pgm": b"%s 3 1 %d\n" % (magic, largest) + pixels}), (1, 3))
    np.testing.assert_allclose(x[0, 1, 0], np.array(values) / largest, rtol=0, atol=0.5 / 255 + 1e-6)


@pytest.mark.filterwarnings("error")
def test_transparency_is_dropped(tmp_path: Path) -> None:
    """A pixel keeps its colour, whatever shines through it."""
    colours = np.array([[200, 30, 7], [0, 255, 9]], np.uint8)
    rgba = np.hstack([colours, [[0], [128]]]).astype(np.uint8).tobytes()
    grey = np.repeat([[50], [250]], 3, axis=1)
    files = {
        "a/1.png": (png(2, 1, b"\0" + rgba, 8, 6), colours),
        "a/2.png": (png(2, 1, b"\0" + colours.tobytes(), 8, 2, {b"tRNS": b"\0\xc8\0\x1e\0\x07"}), colours),
        "a/3.png": (png(2, 1, b"\0\0\1", 8, 3, {b"PLTE": colours.tobytes(), b"tRNS": b"\0\x80"}), colours),
        "a/4.png": (png(2, 1, b"\0\x40", 1, 3, {b"PLTE": colours.tobytes(), b"tRNS": b"\0"}), colours),
        "a/5.png": (png(2, 1, b"\0" + bytes([50, 0, 250, 99]), 8, 4), grey),
        "a/6.png": (png(2, 1, b"\0" + bytes([50, 250]), 8, 0, {b"tRNS": b"\0\x32"}), grey),
    }
    x, _ = image_folder(tree(tmp_path, {name: content for name, (content, _) in files.items()}), (1, 2))
    for found, (_, want) in zip(x, files.values(), strict=True):
        np.testing.assert_array_equal(found[:, 0].T, np.float32(want) / np.float32(255))


@pytest.mark.parametrize("ink", [(0, 0, 0, 0), (255, 128, 0, 0), (0, 0, 0, 100), (40, 200, 10, 60)])
def test_cmyk(tmp_path: Path, ink: tuple[int, ...]) -> None:
    file = io.BytesIO()
    Image.new("CMYK", (16, 16), ink).save(file, "JPEG", quality=100)
    x, _ = image_folder(tree(tmp_path, {"a/1.jpg": file.getvalue()}), 16)
    c, k = np.array(ink[:3]) / 255, ink[3] / 255
    np.testing.assert_allclose(x[0], np.broadcast_to(((1 - c) * (1 - k)).reshape(3, 1, 1), x[0].shape), atol=3 / 255)


def test_colour_profiles_are_not_applied(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8))
    file = io.BytesIO()
    pixels.save(file, "PNG", icc_profile=profile)
    x, _ = image_folder(tree(tmp_path, {"a/1.png": file.getvalue(), "a/2.png": picture()}), (6, 8))
    np.testing.assert_array_equal(x[0], x[1])


# --- turned upright ---

# EXIF's number -> what the camera stored, made upright
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def exif(orientation: int, kind: int = 3) -> bytes:
    """EXIF in big-endian TIFF: one tag, the orientation, of a type (3: 16 bits)."""
    value = struct.pack(">HH", orientation, 0) if kind == 3 else struct.pack(">I", orientation)
    return b"MM\0*" + struct.pack(">IHHHI", 8, 1, 0x0112, kind, 1) + value + bytes(4)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("place", ["before", "after"])
def test_png_is_turned_upright(tmp_path: Path, orientation: int, place: str) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (4, 7, 3), np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    content = png(7, 4, rows, **{place: {b"eXIf": exif(orientation)}})
    want = UPRIGHT[orientation](stored)
    x, _ = image_folder(tree(tmp_path, {"a/1.png": content}), want.shape[:2])
    np.testing.assert_array_equal(x[0], want.transpose(2, 0, 1).astype(np.float32) / 255)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photographs_are_turned_upright(tmp_path: Path, orientation: int, mode: str) -> None:
    """The same JPEG, with and without EXIF in front of it."""
    plain = picture("JPEG", (24, 16), mode)
    segment = b"Exif\0\0" + exif(orientation)
    held = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    stored, _ = image_folder(tree(tmp_path / "plain", {"a/1.jpg": plain}), (16, 24))
    want = UPRIGHT[orientation](stored[0].transpose(1, 2, 0)).transpose(2, 0, 1)
    found, _ = image_folder(tree(tmp_path / "held", {"a/1.jpg": held}), want.shape[1:])
    np.testing.assert_array_equal(found[0], want)


@pytest.mark.parametrize(
    "content", [exif(0), exif(9), exif(6)[:-9], b"MM\0*\xff\xff\xff\xff", b"no EXIF", b"", exif(6, 2)]
)
def test_exif_that_says_nothing(tmp_path: Path, content: bytes) -> None:
    """Cameras and editors leave such behind; the pixels are whole."""
    stored = np.random.default_rng(0).integers(0, 256, (4, 7, 3), np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    x, _ = image_folder(tree(tmp_path, {"a/1.png": png(7, 4, rows, before={b"eXIf": content})}), (4, 7))
    np.testing.assert_array_equal(x[0], stored.transpose(2, 0, 1).astype(np.float32) / 255)


def test_a_photograph_with_a_preview_behind_it(tmp_path: Path) -> None:
    """Phones write such files (MPO) as .jpg: the first image is the photograph."""
    file = io.BytesIO()
    photograph = Image.open(io.BytesIO(picture("JPEG", (24, 16))))
    photograph.save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))], quality=100, subsampling=0)
    one = io.BytesIO()
    photograph.save(one, "JPEG", quality=100, subsampling=0)
    with Image.open(io.BytesIO(file.getvalue())) as found:
        assert found.format == "MPO"
    x, _ = image_folder(tree(tmp_path, {"a/1.jpg": file.getvalue(), "a/2.jpg": one.getvalue()}), (16, 24))
    np.testing.assert_array_equal(x[0], x[1])


# --- what lies beside the images ---

LEFT_BEHIND = {
    "a/._1.jpg": b"\0\5\x16\7\0\2\0\0Mac OS X        ",
    "a/.1.png": b"",
    "a/.DS_Store": b"\0\0\0\1Bud1",
    "a/Thumbs.db": b"\xd0\xcf\x11\xe0",
    "a/desktop.ini": b"[.ShellClassInfo]",
    "._a": b"\0\5\x16\7",
    ".ipynb_checkpoints/1.png": b"",
    "__MACOSX/._1.jpg": b"\0\5\x16\7",
    "@eaDir/1.jpg": b"",
    "$RECYCLE.BIN/1.jpg": b"",
    "System Volume Information/IndexerVolumeGuid": b"",
    "lost+found/1.jpg": b"",
}


def test_what_systems_leave_behind_is_skipped(tmp_path: Path) -> None:
    tree(tmp_path, LEFT_BEHIND | {"a/1.JPG": picture("JPEG"), "b/2.jfif": picture("JPEG")})
    (tmp_path / "a" / "folder.png").mkdir()
    x, y = image_folder(tmp_path, 4)
    assert class_names(tmp_path) == ["a", "b"] and len(x) == 2
    np.testing.assert_array_equal(y, [0, 1])


def test_names_links_and_the_home_directory(tmp_path: Path, monkeypatch) -> None:
    tree(tmp_path, {"kept/ö 1.png": picture(seed=1), "kept/写真.PNG": picture(seed=2)})
    folder = tmp_path / "sets"
    (folder / "great white shark").mkdir(parents=True)
    (folder / "éclair").symlink_to(tmp_path / "kept")
    (folder / "great white shark" / "1.png").symlink_to(tmp_path / "kept" / "写真.PNG")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (folder, "~/sets"):
        assert class_names(path) == ["great white shark", "éclair"]
        x, y = image_folder(path, (6, 8))
        np.testing.assert_array_equal(y, [0, 1, 1])
        np.testing.assert_array_equal(x[0], x[2])
    (folder / "great white shark" / "2.png").symlink_to(tmp_path / "gone")
    with pytest.raises(cc.FormatError, match=r"2\.png: image: cannot be read"):
        image_folder(folder, 4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PPM"])
def test_every_truncation_is_noticed_or_does_no_harm(tmp_path: Path, kind: str) -> None:
    content = picture(kind, (16, 8))
    whole, _ = image_folder(tree(tmp_path / "whole", {"a/1.png": content}), (8, 16))
    for length in range(len(content)):
        tree(tmp_path / "cut", {"a/1.png": content[:length]})
        try:
            found, _ = image_folder(tmp_path / "cut", (8, 16))
        except cc.FormatError:
            continue
        np.testing.assert_array_equal(found, whole)


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
