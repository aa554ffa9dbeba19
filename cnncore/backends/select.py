"""Which backend computes a call: what is available, what was asked for, and why something is not there.

A backend is an object with

    name                                     "numpy", "c" or "cuda"
    missing(op)                              why it cannot compute the op, or None
    channels_last(arrays, roles)             whether it runs a call on these arrays channels last
    on_device                                whether it computes on the CUDA device's arrays
    prepare(plan)                            what it keeps for calls of a plan, as `plan.work`
    forward(plan, arrays, out, numbers)      all results, in the order of the plan's spec; numbers: see `Op.changing`
    backward(plan, needs, dys, saved, spare) a gradient or None per array argument; spare dys may be overwritten
    uniform(key, shape, dtype)               Philox uniforms
    random(key, shape, dtype)                what its forward takes in their place: the same, or a note to draw them

Named, a backend computes or raises BackendError. "auto" (the default) takes CUDA where the arrays are on the device,
then C, then NumPy; `ctx.backend` says which one it was.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import warnings
from typing import Any

import numpy as np

from ..errors import BackendError
from . import philox
from .device import is_foreign

NAMES = ("numpy", "c", "cuda")
DEFAULT = os.environ.get("CNNCORE_BACKEND") or "auto"
# What `use_backend` chose: for the innermost block of this thread, and by calls for the process; the last call counts.
_block: contextvars.ContextVar[str | None] = contextvars.ContextVar("cnncore_backend", default=None)
_calls: list[use_backend] = []
MOST_CALLS = 64  # kept: more than threads can be about to enter a block


class NumPyBackend:
    """The definitions in `cnncore/ops/`, run as they stand. What underflows in them is nothing, and Inf and NaN are
    documented answers: NumPy neither warns of them nor raises, whatever the caller's np.errstate asks of his own code.
    """

    name = "numpy"
    on_device = False

    def missing(self, op: Any) -> str | None:
        return None

    def channels_last(self, arrays: Any, roles: Any) -> bool:
        return False

    def prepare(self, plan: Any) -> None:
        return None

    def forward(self, plan: Any, arrays: Any, out: Any = None, numbers: Any = None) -> tuple[Any, ...]:
        # NumPy turns 0-d results into scalars; asarray turns them back into arrays.
        with np.errstate(all="ignore"):
            results = tuple(np.asarray(result) for result in plan.op.forward(plan.params(numbers), *arrays))
        if out is None:
            return results
        for target, value in zip(out, results, strict=False):
            target[...] = value
        return (*out, *results[len(out) :])

    def backward(self, plan: Any, needs: Any, dys: Any, saved: Any, spare: bool = False) -> tuple[Any, ...]:
        with np.errstate(all="ignore"):
            gradients = plan.op.backward(plan.spec.params, needs, *dys, *saved)
        return tuple(None if g is None else np.asarray(g) for g in gradients)

    def uniform(self, key: tuple[int, int], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return philox.uniform(key, shape, dtype)

    random = uniform


@functools.cache
def load(name: str) -> Any:
    """The backend called `name`; raises BackendError with the reason where it cannot be had."""
    if name == "numpy":
        return NumPyBackend()
    if name == "c":
        from .native import NativeBackend

        return NativeBackend()
    if name == "cuda":
        from .cuda import CudaBackend

        return CudaBackend()
    raise BackendError(f"backend must be one of auto, {', '.join(NAMES)}; got {name!r}")


@functools.cache
def why_not(name: str) -> str | None:
    """Why a backend is not available here, or None."""
    try:
        load(name)
    except BackendError as error:
        return str(error)
    return None


def chosen() -> str:
    """The backend that is meant where a call names none."""
    return _block.get() or (_calls[-1].name if _calls else DEFAULT)


@functools.cache
def _warn_once(reason: str) -> None:
    """pip shows nothing of a build that succeeds, so who installs without a compiler is told here."""
    warnings.warn(f"{reason}; NumPy computes (cnncore.use_backend('numpy') asks for it)", RuntimeWarning, stacklevel=2)


def engine(op: Any, name: str | None, arrays: tuple[Any, ...]) -> Any:
    """The backend that computes this call."""
    name = name or chosen()
    device = any(a is not None and type(a) is not np.ndarray and is_foreign(a) for a in arrays)
    if name == "auto":
        if device:
            name = "cuda"
        else:
            reason = why_not("c")
            if reason:
                _warn_once(reason)
            return load("numpy") if reason or load("c").missing(op) else load("c")
    backend = load(name)
    if device and not backend.on_device:
        raise BackendError(f"{op.name}: the arrays are on the CUDA device, backend={name!r} was asked for")
    reason = backend.missing(op)
    if reason:
        raise BackendError(f"{op.name}: backend {name!r} has no kernel: {reason}")
    return backend


class use_backend:
    """Choose the backend for every op that names none: for the whole process by a call, `cc.use_backend("c")`, or for
    one block of one thread, `with cc.use_backend("c"):`. Inside a block the block's choice counts.

    "auto" goes back to choosing per call. Raises BackendError where the backend cannot be had.
    """

    def __init__(self, name: str) -> None:
        if name != "auto":
            load(name)
        self.name = name
        _calls.append(self)  # until `__enter__` says that a block is meant
        del _calls[:-MOST_CALLS]

    def __repr__(self) -> str:
        return f"use_backend({self.name!r})"

    def __enter__(self) -> use_backend:
        with contextlib.suppress(ValueError):
            _calls.remove(self)
        self._token = _block.set(self.name)
        return self

    def __exit__(self, *exc: object) -> None:
        _block.reset(self._token)
