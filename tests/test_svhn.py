"""SVHN's MATLAB files."""

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

import cnncore as cc
from cnncore.data import read_svhn, svhn
from cnncore.errors import install_hint


def fault(path: Path, read=read_svhn) -> str:
    """What a FormatError says about a file, behind its name."""
    with pytest.raises(cc.FormatError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


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


def test_a_file_of_matlab_7_3_is_named(tmp_path: Path) -> None:
    """That is HDF5, behind a header like MATLAB 5's."""
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM"
    (tmp_path / "a.mat").write_bytes(head.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n" + bytes(99))
    assert "v7.3" in fault(tmp_path / "a.mat")


def test_svhn_in_the_home_directory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.mat").write_bytes(matlab(GOOD))
    check_digits(read_svhn("~/a.mat"), GOOD)
