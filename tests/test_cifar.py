"""CIFAR's files, binary and pickled. Pickles are written here as Python 2 wrote them, instruction by instruction."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cnncore as cc
from cnncore.data import cifar10, cifar100, read_cifar, unpickle

FILES = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def images(count: int, classes: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), np.uint8), rng.integers(0, classes, count)


def number(n: int) -> bytes:
    return b"K" + bytes([n]) if n < 256 else b"M" + struct.pack("<H", n) if n < 1 << 16 else b"J" + struct.pack("<i", n)


def text(s: bytes) -> bytes:
    return b"U" + bytes([len(s)]) + s if len(s) < 256 else b"T" + struct.pack("<i", len(s)) + s


UINT8 = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def array(a: np.ndarray, shape: tuple[int, ...] | None = None, dtype: bytes = UINT8, raw: bytes | None = None) -> bytes:
    """A 2-d array; `shape`, `dtype` and `raw` lie about it."""
    rows, columns = map(number, shape or a.shape)
    head = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + rows + columns + b"\x86"
    )
    return head + dtype + b"\x89" + text(a.tobytes() if raw is None else raw) + b"tb"


def listed(items: list[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def pickled(**fields: bytes) -> bytes:
    return b"\x80\x02}q\x01(" + b"".join(text(k.encode()) + v for k, v in fields.items()) + b"u."


def batch(pixels: np.ndarray, labels: np.ndarray, key: str = "labels", **more: bytes) -> bytes:
    names = listed([text(b"image.png") for _ in labels])
    fields = {"batch_label": text(b"batch 1"), key: listed([number(int(n)) for n in labels]), "data": array(pixels)}
    return pickled(**fields, filenames=names, **more)


def fault(path: Path, classes: int = 10) -> str:
    """What a FormatError says about a file, behind its name."""
    with pytest.raises(cc.FormatError) as caught:
        read_cifar(path, classes)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 400
    return message.removeprefix(f"{path}: ")


def check(found: Any, pixels: np.ndarray, labels: np.ndarray) -> None:
    x, y = found
    assert x.dtype == np.float32 and y.dtype == np.int64 and x.flags.c_contiguous
    np.testing.assert_array_equal(x, pixels.reshape(-1, 3, 32, 32).astype(np.float32) / 255)
    np.testing.assert_array_equal(y, labels)


# --- what is right is read ---


@pytest.mark.parametrize("count", [1, 7])
def test_binary(tmp_path: Path, count: int) -> None:
    pixels, labels = images(count)
    (tmp_path / "a.bin").write_bytes(b"".join(bytes([n]) + p.tobytes() for n, p in zip(labels, pixels, strict=True)))
    check(read_cifar(tmp_path / "a.bin", 10), pixels, labels)
    records = (bytes([n, 99 - n]) + p.tobytes() for n, p in zip(labels, pixels, strict=True))
    (tmp_path / "b.bin").write_bytes(b"".join(records))
    check(read_cifar(tmp_path / "b.bin", 20), pixels, labels)
    check(read_cifar(str(tmp_path / "b.bin"), 100), pixels, 99 - labels)


def test_pickle_of_python_2(tmp_path: Path) -> None:
    pixels, labels = images(7)
    (tmp_path / "a").write_bytes(batch(pixels, labels))
    assert set(pickle.loads(batch(pixels, labels), encoding="bytes")) >= {b"data", b"labels"}  # it is one
    check(read_cifar(tmp_path / "a", 10), pixels, labels)
    (tmp_path / "b").write_bytes(
        batch(pixels, labels, "fine_labels", coarse_labels=listed([number(19 - int(n)) for n in labels]))
    )
    check(read_cifar(tmp_path / "b", 100), pixels, labels)
    check(read_cifar(tmp_path / "b", 20), pixels, 19 - labels)


@pytest.mark.parametrize("order", ["C", "F"])
def test_pickle_of_python_3(tmp_path: Path, order) -> None:
    pixels, labels = images(7)
    content = {"data": np.asarray(pixels, order=order), "labels": labels.tolist(), "filenames": ["é.png"] * 7}
    (tmp_path / "a").write_bytes(pickle.dumps(content, protocol=3))
    check(read_cifar(tmp_path / "a", 10), pixels, labels)


KINDS = {
    "ints": np.ndarray.tolist,
    "NumPy's ints": list,
    "int64": np.asarray,
    "int32": lambda labels: labels.astype(np.int32),
    "uint8": lambda labels: labels.astype(np.uint8),
    "big-endian": lambda labels: labels.astype(">i2"),
    "every second": lambda labels: np.repeat(labels, 2)[::2],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [str, str.encode])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_today(tmp_path: Path, protocol: int, text, kind: str) -> None:
    """What one gets by loading CIFAR, with encoding="bytes" or not, and dumping it again."""
    pixels, labels = images(7)
    content = {"batch_label": text("batch 1"), "labels": KINDS[kind](labels), "data": pixels, "empty": text("")}
    content |= {"filenames": [text("image.png")] * 7, "fine_labels": KINDS[kind](99 - labels)}
    content |= {"names": np.array([text("image.png")] * 7), "mean": np.float32(3), "means": pixels.mean(axis=0)}
    dumped = pickle.dumps({text(key): value for key, value in content.items()}, protocol)
    (tmp_path / "a").write_bytes(dumped)
    check(read_cifar(tmp_path / "a", 10), pixels, labels)
    check(read_cifar(tmp_path / "a", 100), pixels, 99 - labels)


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_numpy_1_and_2(tmp_path: Path, protocol: int, core: bytes) -> None:
    """The two name their modules differently; a short string carries its length in front."""
    pixels, labels = images(7)
    dumped = pickle.dumps({"data": pixels, "labels": list(labels)}, protocol)
    if protocol < 4:
        dumped = dumped.replace(b"cnumpy._core.", b"c" + core + b".")
    else:
        for module in (b".multiarray", b".numeric"):
            old, new = b"numpy._core" + module, core + module
            dumped = dumped.replace(bytes([len(old)]) + old, bytes([len(new)]) + new)
        dumped = unframed(dumped)
    assert core + b"." in dumped
    (tmp_path / "a").write_bytes(dumped)
    check(read_cifar(tmp_path / "a", 10), pixels, labels)


def unframed(dumped: bytes) -> bytes:
    """Without the frames of protocol 4, whose lengths are not right any more. They are optional."""
    at = [position for code, _, position in pickletools.genops(dumped) if code.name == "FRAME"]
    for position in reversed(at):
        dumped = dumped[:position] + dumped[position + 9 :]
    return dumped


@pytest.mark.parametrize("pixels", [np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2], lambda a: a[::-1]])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_in_every_order(tmp_path: Path, protocol: int, pixels) -> None:
    content = {"data": pixels(PIXELS), "labels": LABELS}
    content["data"].flags.writeable = False  # protocol 5 then writes bytes, else a bytearray
    (tmp_path / "a").write_bytes(pickle.dumps(content, protocol))
    check(read_cifar(tmp_path / "a", 10), content["data"], LABELS)


@pytest.mark.parametrize("suffix", [".bin", ""])
def test_whole_sets(tmp_path: Path, suffix: str) -> None:
    def write(name: str, count: int, seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
        pixels, labels = images(count, classes, seed)
        key = {10: "labels", 100: "fine_labels"}[classes]
        coarse = {} if classes == 10 else {"coarse_labels": listed([number(int(n) // 5) for n in labels])}
        before = [b"" if classes == 10 else bytes([n // 5]) for n in labels]
        records = (c + bytes([n]) + p.tobytes() for c, n, p in zip(before, labels, pixels, strict=True))
        content = b"".join(records) if suffix else batch(pixels, labels, key, **coarse)
        (tmp_path / (name + suffix)).write_bytes(content)
        return pixels, labels

    parts = [write(f"data_batch_{i}", i, i, 10) for i in range(1, 6)]
    test = write("test_batch", 4, 9, 10)
    train_found, test_found = cifar10(tmp_path)
    check(train_found, np.concatenate([p for p, _ in parts]), np.concatenate([n for _, n in parts]))
    check(test_found, *test)
    train, test = write("train", 6, 1, 100), write("test", 3, 2, 100)
    for found, (pixels, labels) in zip(cifar100(tmp_path), (train, test), strict=True):
        check(found, pixels, labels)
    check(cifar100(tmp_path, coarse=True)[0], train[0], train[1] // 5)


# --- what is wrong is named: the file, then the field ---


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(cc.FormatError, match=r"data_batch_1: file: cannot be read"):
        cifar10(tmp_path)
    with pytest.raises(cc.FormatError, match=r"train: file: cannot be read"):
        cifar100(tmp_path)
    assert fault(tmp_path).startswith("file: cannot be read")  # a folder
    with pytest.raises(cc.CnncoreError, match="classes must be 10, 20 or 100, got 7"):
        read_cifar(tmp_path, 7)


@pytest.mark.parametrize("size", [0, 1, 3072, 3074, 2 * 3073 - 1])
def test_binary_of_another_size(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(size))
    assert fault(tmp_path / "a.bin").startswith(f"records: must be whole ones of 3073 bytes, the file has {size}")


def test_binary_labels(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(3073) + b"\x0a" + bytes(3072))
    assert fault(tmp_path / "a.bin") == "labels: must be 0 to 9, got 10 at index 1"


PIXELS, LABELS = images(3)
DATA, NUMBERS = array(PIXELS), listed([number(int(n)) for n in LABELS])
WRONG_FIELDS = {
    "no data": (pickled(labels=NUMBERS), "data: is missing"),
    "no labels": (pickled(data=DATA), "labels: is missing"),
    "data is text": (pickled(data=text(b"x"), labels=NUMBERS), "data: must be an array"),
    "data is a dtype": (pickled(data=UINT8, labels=NUMBERS), "data: must be an array of uint8"),
    "data has no state": (pickled(data=DATA.split(b"(K\x01")[0], labels=NUMBERS), "data: must be an array of uint8"),
    "rows of another length": (pickled(data=array(PIXELS[:, :3071]), labels=NUMBERS), "data: must have shape"),
    "too few bytes": (pickled(data=array(PIXELS, raw=b"x"), labels=NUMBERS), "data: must be an array of uint8"),
    "shape too small": (pickled(data=array(PIXELS, (2, 3072)), labels=NUMBERS), "data: an array of shape (2, 3072)"),
    "huge shape": (pickled(data=array(PIXELS, (1 << 30, 1 << 30)), labels=NUMBERS), "data: must be an array of uint8"),
    "labels are text": (pickled(data=DATA, labels=text(b"123")), "labels: must be a list of integers"),
    "a label is text": (pickled(data=DATA, labels=listed([text(b"1")] * 3)), "labels: must be a list of integers"),
    "a label is True": (pickled(data=DATA, labels=listed([b"\x88"] * 3)), "labels: must be a list of integers"),
    "a huge label": (pickled(data=DATA, labels=listed([b"\x8a\xff" + b"\x7f" * 255] * 3)), "labels: must be a list"),
    "a label too high": (pickled(data=DATA, labels=listed([number(10)] * 3)), "labels: must be 0 to 9, got 10"),
    "a negative label": (pickled(data=DATA, labels=listed([b"J\xff\xff\xff\xff"] * 3)), "labels: must be 0 to 9"),
    "too few labels": (pickled(data=DATA, labels=listed([number(1)] * 2)), "labels: must be one for each of the 3"),
}


@pytest.mark.parametrize("case", WRONG_FIELDS)
def test_wrong_fields(tmp_path: Path, case: str) -> None:
    content, want = WRONG_FIELDS[case]
    (tmp_path / "a").write_bytes(content)
    assert fault(tmp_path / "a").startswith(want)


OTHERS = {
    "data are floats": ({"data": PIXELS / 255, "labels": LABELS}, "data: must be an array of uint8, got float64"),
    "data are int64": ({"data": PIXELS.astype(int), "labels": LABELS}, "data: must be an array of uint8, got int64"),
    "data are objects": ({"data": PIXELS.astype(object), "labels": LABELS}, "pickle: "),
    "data are images": ({"data": PIXELS.reshape(-1, 3, 32, 32), "labels": LABELS}, "data: must have shape (N, 3072)"),
    "labels are floats": (
        {"data": PIXELS, "labels": LABELS / 1},
        "labels: must be a list of integers or an array (N,)",
    ),
    "a label is a float": ({"data": PIXELS, "labels": list(LABELS / 1)}, "labels: must be a list of integers"),
    "labels are text": ({"data": PIXELS, "labels": np.array(["3", "1", "2"])}, "labels: must be a list of integers"),
    "a label is text": ({"data": PIXELS, "labels": list(np.array(["3", "1", "2"]))}, "labels: must be a list of integ"),
    "a label is true": ({"data": PIXELS, "labels": list(LABELS > 3)}, "labels: must be a list of integers"),
    "labels are times": ({"data": PIXELS, "labels": LABELS.astype("M8[s]")}, "pickle: "),
    "labels are records": ({"data": PIXELS, "labels": np.zeros(3, "i4,i4")}, "pickle: "),
    "labels are one-hot": (
        {"data": PIXELS, "labels": np.eye(10, dtype=int)[LABELS]},
        "labels: must be a list of integ",
    ),
    "labels are a column": ({"data": PIXELS, "labels": LABELS[:, None]}, "labels: must be a list of integers"),
    "labels are a set": ({"data": PIXELS, "labels": {1, 2, 3}}, "pickle: "),
    "a label is large": ({"data": PIXELS, "labels": LABELS + 2**40}, "labels: must be 0 to 9"),
    "a label is unsigned": ({"data": PIXELS, "labels": LABELS.astype(np.uint64) + 2**63}, "labels: must be 0 to 9"),
    "a masked array": ({"data": np.ma.masked_array(PIXELS, PIXELS > 9), "labels": LABELS}, "pickle: "),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_something_else(tmp_path: Path, case: str, protocol: int) -> None:
    content, want = OTHERS[case]
    (tmp_path / "a").write_bytes(pickle.dumps(content, protocol))
    found = fault(tmp_path / "a")
    assert found.startswith(want)


def test_a_buffer_of_another_size(tmp_path: Path) -> None:
    """Protocol 5's own form of an array, with lies about it."""
    dumped = pickle.dumps({"data": PIXELS, "labels": LABELS}, 5)
    shape, columns = b"K\x03M\x00\x0c\x86", b"\x8c\x01C"
    assert dumped.count(shape) == 1 and dumped.count(columns) == 1
    lies = {
        "data: an array of shape (2, 3072) must have 6144 bytes, got 9216": (shape, b"K\x02M\x00\x0c\x86"),
        "data: must be an array of uint8 with at most 4 axes": (shape, b"J\xff\xff\xff\x7fM\x00\x0c\x86"),
        "data: must be an array of uint8": (columns, b"\x8c\x01K"),
        "pickle: ": (b"_frombuffer", b"_frombuffe_"),
    }
    for want, (old, new) in lies.items():
        (tmp_path / "a").write_bytes(unframed(dumped).replace(old, new))
        assert fault(tmp_path / "a").startswith(want)


# --- hostile pickles ---


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_of_os_system_is_refused(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "mark"
    content = pickle.dumps({"data": Evil(mark), "labels": []}, protocol)
    (tmp_path / "a").write_bytes(content)
    assert fault(tmp_path / "a").startswith("pickle: ")
    assert not mark.exists()
    pickle.loads(content)
    assert mark.exists()  # it would have


def named(name: bytes) -> bytes:
    """The names of protocol 4 on: two strings and an instruction."""
    module, what = name.split(b" ")
    return b"".join(b"\x8c" + bytes([len(part)]) + part for part in (module, what)) + b"\x93"


TUPLES = b")" + b"q\x01h\x01\x86" * 60  # ((..., ...), (..., ...)): to hash it takes 2^60 steps
HOSTILE = {
    "empty": (b"", "pickle: "),
    "not a pickle": (b"\x89PNG\r\n\x1a\n", "pickle: "),
    "no dict": (b"\x80\x02].", "pickle: must hold a dict, got list"),
    "two values": (b"\x80\x02}}.", "pickle: STOP at byte 4"),
    "no value": (b"\x80\x02.", "pickle: STOP at byte 2"),
    "bytes behind": (b"\x80\x02}..", "pickle: must end at byte 3, 1 bytes follow"),
    "another name": (b"\x80\x02cbuiltins\neval\n.", "pickle: GLOBAL at byte 2: 'builtins eval'"),
    "a name of NumPy": (b"\x80\x02cnumpy\nload\n.", "pickle: GLOBAL at byte 2: 'numpy load'"),
    "a name by attribute": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "pickle: STACK_GLOBAL at byte 14: 'os system'"),
    "a number called": (b"\x80\x04" + named(b"_codecs encode") + b"K\x01\x85R.", "pickle: REDUCE"),
    "another encoding": (b"\x80\x04" + named(b"_codecs encode") + b"\x8c\x01a\x8c\x03zip\x86R.", "pickle: REDUCE"),
    "bytes of a size": (b"\x80\x04" + named(b"__builtin__ bytes") + b"J\xff\xff\xff\x7f\x85R.", "pickle: REDUCE"),
    "a name that is none": (b"\x80\x04K\x01K\x02\x93.", "pickle: STACK_GLOBAL at byte 6: str expected, int found"),
    "a scalar of objects": (b"\x80\x04" + named(b"numpy dtype") + b"\x8c\x01O\x85R.", "pickle: REDUCE"),
    "an object by its class": (b"\x80\x04" + named(b"numpy ndarray") + b")\x81.", "pickle: NEWOBJ"),
    "an extension": (b"\x80\x02\x82\x01.", "pickle: EXT1"),
    "a buffer from elsewhere": (b"\x80\x05\x97.", "pickle: NEXT_BUFFER"),
    "a set": (b"\x80\x04\x8f.", "pickle: EMPTY_SET"),
    "a huge number in digits": (b"L" + b"9" * 100_000 + b"L\n.", "pickle: "),
    "an instance": (b"(ios\nsystem\n.", "pickle: INST at byte 1"),
    "a persistent id": (b"\x80\x02U\x01aQ.", "pickle: BINPERSID at byte 5"),
    "ndarray called": (b"\x80\x02cnumpy\nndarray\nK\x63\x85R.", "pickle: REDUCE at byte 20: only arrays"),
    "text called": (b"\x80\x02U\x01a)R.", "pickle: REDUCE at byte 6: Name expected, str found"),
    "an array of another class": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R.",
        "pickle: REDUCE",
    ),
    "an array of objects": (pickled(data=array(PIXELS, dtype=UINT8.replace(b"u1", b"O8"))), "pickle: REDUCE"),
    "state of a dict": (b"\x80\x02})b.", "pickle: BUILD at byte 4: Made expected, dict found"),
    "append to a dict": (b"\x80\x02}K\x01a.", "pickle: APPEND at byte 5: list expected, dict found"),
    "a key without value": (b"\x80\x02}(U\x01au.", "pickle: SETITEMS"),
    "a key that is no text": (b"\x80\x02}K\x01K\x02s.", "pickle: SETITEM at byte 7: str expected, int found"),
    "a key that hashes for ever": (b"\x80\x02}" + TUPLES + b"K\x01s.", "pickle: SETITEM"),
    "keys that hash for ever": (b"\x80\x02}(" + TUPLES + b"K\x01u.", "pickle: SETITEMS"),
    "no mark": (b"\x80\x02}u.", "pickle: SETITEMS at byte 3: takes what is not there"),
    "nothing stored": (b"\x80\x02h\x07.", "pickle: BINGET at byte 2: takes what is not there"),
    "claims 2 GiB of text": (b"\x80\x02T\xff\xff\xff\x7fabc.", "pickle: "),
    "claims -1 bytes of text": (b"\x80\x02T\xff\xff\xff\xffabc.", "pickle: "),
    "claims 4 GiB": (b"\x80\x03B\xff\xff\xff\xffabc.", "pickle: "),
    "claims 2^63 bytes of an array": (b"\x80\x05\x96" + b"\xff" * 7 + b"\x7fabc.", "pickle: "),
    "claims a frame": (b"\x80\x04\x95" + b"\xff" * 8 + b".", "pickle: "),
    "claims 2^63 bytes": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.", "pickle: "),
    "a million lists": (b"\x80\x02" + b"]" * (1 << 20) + b".", "pickle: EMPTY_LIST at byte 1048577: must have at most"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(tmp_path: Path, case: str) -> None:
    content, want = HOSTILE[case]
    (tmp_path / "a").write_bytes(content)
    assert fault(tmp_path / "a").startswith(want)


def test_stored_far_away_needs_no_memory(tmp_path: Path) -> None:
    """Index 2^32 - 1 of the memo: C's unpickler asks for 64 GiB."""
    content = batch(PIXELS, LABELS).replace(b"}q\x01", b"}r\xff\xff\xff\xff")
    (tmp_path / "a").write_bytes(content)
    check(read_cifar(tmp_path / "a", 10), PIXELS, LABELS)


def test_the_same_bytes_in_many_arrays_are_made_once() -> None:
    """A million of these would be 1 TB."""
    again = b"".join(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85Rh\x02b" for _ in range(1000))
    state = b"(K\x01" + number(1 << 20) + b"\x85" + UINT8 + b"\x89" + text(bytes(1 << 20)) + b"tq\x02"
    content = b"\x80\x02}U\x01a](" + state + again + b"es."
    tracemalloc.start()
    found = unpickle.unpickle("f", content)["a"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1001 and peak < 20 << 20
    assert found[-1].array().shape == (1 << 20,)


def test_the_same_text_is_not_copied_by_every_call() -> None:
    """A million of these calls, each of which makes bytes of 1 MB of text, would be 1 TB."""
    parts = b"c_codecs\nencode\nq\x00" + text(bytes(1 << 20)) + b"q\x01U\x06latin1q\x02"
    content = b"\x80\x02}U\x01a](" + parts + b"h\x00h\x01h\x02\x86R" * 1000 + b"es."
    tracemalloc.start()
    found = unpickle.unpickle("f", content)["a"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1003 and found[-1] == "\0" * (1 << 20) and peak < 20 << 20


SMALL = {"labels": [1, np.int64(2)], b"data": np.zeros((1, 4), np.uint8)}
CUT = [pickled(labels=listed([number(1)]), data=array(np.zeros((1, 4), np.uint8)))]
CUT += [pickle.dumps(SMALL, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]


@pytest.mark.parametrize("content", CUT)
def test_every_truncation(tmp_path: Path, content: bytes) -> None:
    for length in range(len(content)):
        (tmp_path / "a").write_bytes(content[:length])
        assert fault(tmp_path / "a").startswith("pickle: ")


@FILES
@given(st.data())
def test_damaged_pickles_give_an_error_or_a_batch(tmp_path: Path, data) -> None:
    protocol = data.draw(st.integers(-1, pickle.HIGHEST_PROTOCOL))
    today = pickle.dumps({b"data": PIXELS[:1], b"labels": LABELS[:1]}, max(protocol, 0))
    content = bytearray(batch(PIXELS[:1], LABELS[:1]) if protocol < 0 else today)
    places = [i for i in range(len(content)) if not 400 < i < len(content) - 400]  # most among the instructions
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.sampled_from(places))] = data.draw(st.integers(0, 255))
    (tmp_path / "a").write_bytes(content)
    try:
        x, y = read_cifar(tmp_path / "a", 10)
    except cc.FormatError as error:
        assert str(error).startswith(str(tmp_path / "a"))
    else:
        assert x.shape == (len(y), 3, 32, 32)
