"""Checkpoint files: what comes back, what a failure or kill at any moment leaves, what hostile files raise."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cnncore as cc
from cnncore import checkpoint
from cnncore.errors import install_hint

safetensors = pytest.importorskip("safetensors.numpy")
ARRAYS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "f": np.asfortranarray(np.arange(6.0).reshape(3, 2)),
    "s": np.arange(10.0)[::-3],
    "none": np.zeros((0, 4)),
    "steps": np.array(7, np.uint64),
}
STEPS = ("open", "write", "flush", "fsync file", "replace", "open directory", "fsync directory")


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, ARRAYS, {"epoch": 3, "lr": 0.1 + 0.2, "text": "π"})
    arrays, record = checkpoint.load(path)
    assert record == {"format": checkpoint.VERSION, "epoch": 3, "lr": 0.1 + 0.2, "text": "π"}
    assert set(arrays) == set(ARRAYS)
    for name, a in ARRAYS.items():
        assert arrays[name].dtype == a.dtype
        np.testing.assert_array_equal(arrays[name], a)
    assert os.listdir(tmp_path) == ["c.safetensors"]


def test_numbers_that_json_lacks_are_refused(tmp_path):
    with pytest.raises(cc.CnncoreError, match="not JSON"):
        checkpoint.save(tmp_path / "c", ARRAYS, {"loss": float("nan")})
    assert not os.listdir(tmp_path)


def sabotage(monkeypatch, step, act):
    """Let `act()` happen instead of the named step of `write_atomically`."""

    class File:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            self.file.close()

        def write(self, data):
            if step == "write":
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                act()
            self.file.write(data)

        def flush(self):
            if step == "flush":
                act()
            self.file.flush()

        def fileno(self):
            return self.file.fileno()

    def opened(*args):
        if step == "open":
            act()
        return File(open(*args))

    calls = []
    true_fsync, true_replace, true_open = os.fsync, os.replace, os.open

    def fsync(handle):
        calls.append(handle)
        if step == ("fsync file", "fsync directory")[len(calls) - 1]:
            act()
        true_fsync(handle)

    def replace(*args):
        if step == "replace":
            act()
        true_replace(*args)

    def open_directory(*args):
        if step == "open directory":
            act()
        return true_open(*args)

    monkeypatch.setattr(checkpoint, "open", opened, raising=False)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "open", open_directory)


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_at_any_step_leaves_one_whole_checkpoint(tmp_path, monkeypatch, step):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"a": np.zeros(5)}, {"epoch": 0})

    def fail():
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        sabotage(patch, step, fail)
        with pytest.raises(OSError, match="no space left"):
            checkpoint.save(path, {"a": np.ones(5)}, {"epoch": 1})
    arrays, record = checkpoint.load(path)
    renamed = STEPS.index(step) > STEPS.index("replace")
    assert record["epoch"] == renamed
    np.testing.assert_array_equal(arrays["a"], np.full(5, float(renamed)))
    assert os.listdir(tmp_path) == ["c.safetensors"]


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_leaves_one_whole_checkpoint(tmp_path, step):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"a": np.zeros(5)}, {"epoch": 0})
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np, pytest
from test_checkpoint import checkpoint, sabotage
sabotage(pytest.MonkeyPatch(), {step!r}, lambda: os.kill(os.getpid(), signal.SIGKILL))
checkpoint.save({str(path)!r}, {{"a": np.ones(5)}}, {{"epoch": 1}})
"""
    run = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert run.returncode == -9, run.stderr
    arrays, record = checkpoint.load(path)
    renamed = STEPS.index(step) > STEPS.index("replace")
    assert record["epoch"] == renamed
    np.testing.assert_array_equal(arrays["a"], np.full(5, float(renamed)))
    checkpoint.save(path, {"a": np.ones(5)}, {"epoch": 2})  # leftovers of the killed process are in nobody's way
    assert checkpoint.load(path)[1]["epoch"] == 2


def raw(text):
    return safetensors.save({"a": np.zeros(2)}, metadata={"cnncore": text})


def header(value):
    text = json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is no readable safetensors file"),
        (b"\xff" * 100, "is no readable safetensors file"),
        ((2**60).to_bytes(8, "little") + b"{}", "is no readable safetensors file"),
        (raw("{}")[:-1], "is no readable safetensors file"),
        (raw("{}") + b"x", "is no readable safetensors file"),
        (header([]), "is no readable safetensors file"),
        (
            header({"a": {"dtype": "F9", "shape": [1], "data_offsets": [0, 1]}}) + b"0",
            "is no readable safetensors file",
        ),
        (header({}), "is no cnncore checkpoint"),
        (header({"__metadata__": {}}), "is no cnncore checkpoint"),
        (safetensors.save({"a": np.zeros(2)}), "is no cnncore checkpoint"),
        (raw("{"), "the record is not JSON"),
        (raw('{"format": NaN}'), "NaN is not allowed"),
        (raw("[" * 100_000), "the record is not JSON"),
        (raw("[]"), "the record must be a JSON object, got list"),
        (raw("{}"), "format must be 1, got None"),
        (raw('{"format": 2}'), "format must be 1, got 2"),
    ],
)
def test_hostile_files_raise_format_errors_that_name_the_file(tmp_path, data, text):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(data)
    with pytest.raises(cc.FormatError) as caught:
        checkpoint.load(path)
    assert str(caught.value).startswith(f"{path}: ") and text in str(caught.value)


def test_every_truncation_and_every_flipped_header_byte_loads_or_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"a": np.zeros(2)}, {"epoch": 0})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(cc.FormatError):
            checkpoint.load(path)
    for at in range(len(whole) - 16):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        try:
            arrays, record = checkpoint.load(path)
        except cc.FormatError:
            continue
        assert isinstance(record, dict) and all(isinstance(a, np.ndarray) for a in arrays.values())


def test_a_file_that_is_not_there_is_a_format_error(tmp_path):
    with pytest.raises(cc.FormatError, match="cannot be read"):
        checkpoint.load(tmp_path / "none")
    with pytest.raises(cc.FormatError, match="cannot be read"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("value", [None, "1", True, -1, 1.5, float("nan"), float("inf"), 2**63, []])
def test_numbers_of_a_record_are_checked(value):
    with pytest.raises(cc.FormatError, match="file: epoch must be"):
        checkpoint.number("file", "epoch", value, int)


def test_without_safetensors_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(cc.CnncoreError, match=re.escape(install_hint("train"))):
        checkpoint.save(tmp_path / "c", {}, {})
