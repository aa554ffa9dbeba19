"""Checkpoint files: arrays and a JSON record in one safetensors file, replaced as a whole.

The record stands in the file's own header, so arrays and record cannot come from two different moments: whenever the
process is killed, the path holds the previous checkpoint or the new one. No pickle: loading runs nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CnncoreError, FormatError, install_hint

VERSION = 1
_RECORD = "cnncore"  # the key of the record in the safetensors header


def write_atomically(path: str | Path, data: bytes) -> None:
    """Replace a file by `data`, or leave it as it was: whole in a temporary file, on disk, and only then renamed.

    An error removes the temporary file; a kill may leave it (".<name>.<process>.tmp"), never the path half written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the new name, too, must survive a power cut
    finally:
        os.close(directory)


def save(path: str | Path, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Write arrays and a JSON-able record to one file, atomically. Raises CnncoreError for NaN or Inf in the record."""
    try:
        text = json.dumps({"format": VERSION, **record}, allow_nan=False)
    except ValueError as error:
        raise CnncoreError(f"checkpoint {path}: the record is not JSON: {error}") from None
    plain = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in arrays.items()}
    write_atomically(path, library().save(plain, metadata={_RECORD: text}))


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the record of a checkpoint. Raises FormatError, naming the file and what is wrong with it."""
    reader = library()
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        arrays = reader.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except Exception as error:  # the library raises its own, KeyError, TypeError, ...
        raise FormatError(f"{path}: is no readable safetensors file: {error}") from None
    text = (header.get("__metadata__") or {}).get(_RECORD)
    if text is None:
        raise FormatError(f"{path}: is no cnncore checkpoint: its header has no {_RECORD!r} record")
    try:
        record = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: the record is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise FormatError(f"{path}: the record must be a JSON object, got {type(record).__name__}")
    if record.get("format") != VERSION:
        raise FormatError(f"{path}: format must be {VERSION}, got {record.get('format')!r}")
    return arrays, record


def number(path: str | Path, name: str, value: Any, kind: type) -> Any:
    """A number of a record, from 0 to below 2^63 and an int where `kind` is int, or a FormatError."""
    right = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not right or not 0 <= value < 2**63:
        what = "an integer" if kind is int else "a number"
        raise FormatError(f"{path}: {name} must be {what} from 0 to below 2^63, got {value!r}")
    return value


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not allowed")


def library() -> Any:
    """safetensors, or an error that says how to get it."""
    try:
        import safetensors.numpy
    except ImportError:
        raise CnncoreError(f"checkpoints need safetensors: {install_hint('train')}") from None
    return safetensors.numpy
