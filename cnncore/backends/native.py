"""Calls the C kernels of csrc/ through cffi: layouts, pointers, scratch, threads. No code per op.

A kernel is found by name (`<op>_forward_f32`) and called with its arguments in the order that csrc/kernels.h fixes.
Feature maps of one call share one layout, contiguous or channels-last, taken from the first of them; results and
gradients come out in it. An array in another layout, with gaps, or not aligned is copied once on entry.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import importlib.util
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import BackendError
from ..ops.geometry import Window
from . import memory

HEADER = Path(__file__).parents[2] / "csrc" / "kernels.h"  # in a checkout
ISAS = ("avx512", "avx2", "baseline")  # the fastest first
# libgomp's threads spin for milliseconds before they sleep; on a busy machine that takes the processor from those they
# wait for. About 20 us is enough to bridge the gap between two kernels. Read by libgomp when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

POISON = False  # for tests: fill results and scratch with NaN before every call, so that what is not written shows

_SUFFIX = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}
_MAX_AXES = 5
_chosen = contextvars.ContextVar("cnncore_isa", default=os.environ.get("CNNCORE_ISA") or "")


@functools.cache
def _module(isa: str) -> Any:
    """The cffi module of one instruction set."""
    try:
        module = importlib.import_module(f"cnncore._native_{isa}")
    except ImportError as error:  # built for another machine, or half built
        raise BackendError(f"c: the compiled kernels cannot be loaded ({error}); build them again") from error
    if _is_stale(module):
        raise BackendError("c: the compiled kernels are not those of csrc/kernels.h; build them again (`make build`)")
    module.lib.cc_set_threads(_default_threads())
    return module


def _is_stale(module: Any) -> bool:
    """Whether a checkout's header has changed since: a call with other arguments than a kernel takes would crash."""
    if not HEADER.exists():
        return False
    built = module.ffi.string(module.lib.cc_header()).decode() if hasattr(module.lib, "cc_header") else ""
    return bool(built != hashlib.sha256(HEADER.read_bytes()).hexdigest())


@functools.cache
def compiled() -> tuple[str, ...]:
    """The instruction sets that were compiled, the fastest first."""
    return tuple(isa for isa in ISAS if importlib.util.find_spec(f"cnncore._native_{isa}"))


@functools.cache
def supported() -> tuple[str, ...]:
    """Those of them that this CPU can run."""
    return tuple(isa for isa in compiled() if _module("baseline").lib.cc_cpu_supports(isa.encode()))


def current_isa() -> str:
    """The instruction set of the next call: `use_isa`, else CNNCORE_ISA at import, else the best this CPU has."""
    available = supported()
    if not available:
        raise BackendError(
            "c: the C kernels are not built. Install a C compiler (Debian/Ubuntu: apt install build-essential) and "
            "run `pip install .` (or `make build`) again; until then the NumPy backend computes"
        )
    name = _chosen.get() or available[0]
    if name not in available:
        raise BackendError(f"c: instruction set {name!r} is not available here; there are: {', '.join(available)}")
    return name


@contextlib.contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Run the kernels of one instruction set inside the block."""
    token = _chosen.set(name)
    try:
        current_isa()
        yield
    finally:
        _chosen.reset(token)


def _default_threads() -> int:
    asked = os.environ.get("CNNCORE_NUM_THREADS")
    if asked is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or not 1 <= int(asked) <= 1024:
        raise BackendError(f"c: CNNCORE_NUM_THREADS must be an integer from 1 to 1024, got {asked!r}")
    return int(asked)


def loaded() -> Any:
    """The cffi module of the current instruction set, with its threads set."""
    return _module(current_isa())


def get_threads() -> int:
    return int(loaded().lib.cc_get_threads())


def set_threads(threads: int) -> None:
    """How many threads the kernels use; results do not depend on it."""
    if not 1 <= threads <= 1024:
        raise BackendError(f"c: threads must be from 1 to 1024, got {threads}")
    for isa in supported():
        _module(isa).lib.cc_set_threads(threads)


@contextlib.contextmanager
def use_threads(threads: int) -> Iterator[None]:
    """Run the kernels on so many threads inside the block."""
    before = get_threads()
    set_threads(threads)
    try:
        yield
    finally:
        set_threads(before)


def _after_fork() -> None:
    # libgomp's threads do not exist in a forked child, and it would wait for them for ever: one thread there.
    if supported.cache_info().currsize:
        set_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def info() -> dict[str, Any]:
    """What was compiled, what runs here, and what is chosen."""
    about = {"compiled": list(compiled()), "supported": list(supported())}
    if not supported():
        return {**about, "isa": None, "threads": None, "compiler": None, "vector_bytes": None}
    module = loaded()
    return {
        **about,
        "isa": current_isa(),
        "threads": get_threads(),
        "compiler": module.ffi.string(module.lib.cc_compiler()).decode(),
        "vector_bytes": int(module.lib.cc_vector_bytes()),
    }


# --- memory ------------------------------------------------------------------------------------------------------


def _scratch(size: int) -> memory.Block:
    """`size` bytes, aligned to a cache line. Of the pool, so that a step's arrays take the place over."""
    block = memory.POOL.block((size,), np.dtype(np.uint8))
    if POISON:
        np.asarray(block)[: size // 8 * 8].view(np.float64)[:] = np.nan
    return block


_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}  # by the number of axes: (N, C, *S) as (N, *S, C)
_BACK = {3: (0, 2, 1), 4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}  # and (N, *S, C) as (N, C, *S)


def is_channels_last(a: np.ndarray) -> bool:
    """Whether a (N, C, *S) array is dense in memory as (N, *S, C). One channel alone lies so, too, and is taken so:
    most kernels are faster channels last."""
    return a.ndim in _LAST and a.transpose(_LAST[a.ndim]).flags.c_contiguous


def empty(shape: tuple[int, ...], dtype: Any, channels_last: bool) -> np.ndarray:
    """An array of logical shape (N, C, *S), in the asked memory layout."""
    if channels_last and len(shape) > 2:
        a = memory.empty((shape[0], *shape[2:], shape[1]), dtype).transpose(_BACK[len(shape)])
    else:
        a = memory.empty(shape, dtype)
    if POISON:
        a.fill(np.nan if a.dtype.kind == "f" else np.iinfo(a.dtype).max)
    return a


def _is_dense(a: np.ndarray, channels_last: bool) -> bool:
    """Whether a is dense in that layout and aligned."""
    return a.flags.aligned and (is_channels_last(a) if channels_last and a.ndim > 2 else a.flags.c_contiguous)


def _may_write(op: Any, target: np.ndarray, arrays: Any, channels_last: bool) -> bool:
    """Whether a kernel may write its result straight to `target`: it is dense, and overlaps no argument, unless the op
    goes element by element and the two are one and the same."""
    return _is_dense(target, channels_last) and all(
        op.elementwise and (a is target or a.__array_interface__ == target.__array_interface__)
        for a in arrays
        if isinstance(a, np.ndarray) and np.may_share_memory(a, target)
    )


def dense(a: np.ndarray, channels_last: bool) -> np.ndarray:
    """a itself where it is dense in that layout and aligned, else a copy that is."""
    if _is_dense(a, channels_last):
        return a
    copy = empty(a.shape, a.dtype, channels_last)
    if a.size and a.dtype in _SUFFIX and a.ndim <= _MAX_AXES and _is_dense(a, not channels_last) and supported():
        _call("relayout", a.dtype, [(copy, channels_last), (a, not channels_last)], None)
    else:
        copy[...] = a
    return copy


_TENSOR = struct.Struct(f"Q{2 * _MAX_AXES * 8}s3Q")
_LAYOUT = {False: (0, 1, 2, 3, 4), True: (0, 2, 3, 4, 1)}  # axes from the slowest to the fastest


class Uniforms(NamedTuple):
    """The uniforms that a Philox key stands for, where an array of them would stand: the kernel draws them."""

    key: tuple[int, int]
    shape: tuple[int, ...]


@functools.lru_cache(4096)
def _extent(shape: tuple[int, ...], channels_last: bool) -> bytes:
    """Five lengths and five strides of a dense array, as cc_tensor holds them."""
    shape = (*shape[:2], *(1,) * (_MAX_AXES - len(shape)), *shape[2:])
    strides, step = [0] * _MAX_AXES, 1
    for axis in reversed(_LAYOUT[channels_last]):
        strides[axis] = step
        step *= shape[axis]
    return struct.pack(f"{2 * _MAX_AXES}q", *shape, *strides)


def _tensor(
    a: np.ndarray | Uniforms | None, channels_last: bool, shape: tuple[int, ...] = (), spare: bool = False
) -> bytes:
    """A cc_tensor (csrc/kernels.h): pointer, lengths, strides, key, spare. None gives a NULL pointer, and the lengths
    of `shape`: what is not wanted of many still takes its place among them."""
    if isinstance(a, np.ndarray):
        return _TENSOR.pack(a.__array_interface__["data"][0], _extent(a.shape, channels_last), 0, 0, spare)
    return _TENSOR.pack(0, _extent(shape if a is None else a.shape, channels_last), *(a.key if a else (0, 0)), spare)


_AXIS_FILL = {"kernel": 1, "stride": 1, "dilation": 1, "begin": 0, "end": 0, "size": 1, "out": 1}


def _c_value(value: Any) -> Any:
    """A parameter as cffi takes it: a Window as the fields of cc_window, filled up to three axes in front."""
    if not isinstance(value, Window):
        return value
    missing = 3 - len(value.size)
    return {name: (fill,) * missing + getattr(value, name) for name, fill in _AXIS_FILL.items()}


# --- the backend ---------------------------------------------------------------------------------------------------


@functools.cache
def _missing(kernel: str, backward: bool) -> str | None:
    lib = loaded().lib
    for kind in ("forward", "backward") if backward else ("forward",):
        if not hasattr(lib, f"{kernel}_{kind}_f32"):
            return f"csrc/kernels.h declares no {kernel}_{kind}"
    return None


class NativeBackend:
    """The protocol of select.py on the C kernels."""

    name = "c"

    def __init__(self) -> None:
        current_isa()  # raises where there is nothing to run

    def missing(self, op: Any) -> str | None:
        return _missing(op.kernel, op.backward is not None)

    def channels_last(self, arrays: Any, roles: Any) -> bool:
        """As the first of the feature maps is that has more than one pixel."""
        for a, role in zip(arrays, roles, strict=True):
            if a is not None and role in ("map", "many") and a.ndim > 2 and max(a.shape[2:]) > 1:
                return is_channels_last(a)
        return False

    def forward(self, op: Any, spec: Any, arrays: Any, dtype: Any, out: Any = None) -> tuple[Any, ...]:
        last = spec.channels_last
        read = [_ready(a, role, last) for a, role in zip(arrays, op.roles(arrays), strict=True)]
        targets = (*(out or ()), *(None,) * (len(spec.results) - len(out or ())))
        results = [
            target if target is not None and _may_write(op, target, arrays, last) else empty(shape, kind or dtype, last)
            for target, (shape, kind) in zip(targets, spec.results.values(), strict=True)
        ]
        written = [(a, last) for a in results]
        if any(a.size for a in results):
            _call(f"{op.kernel}_forward", dtype, [*written, read] if op.variadic else written + read, spec.params)
        for i, target in enumerate(out or ()):
            if results[i] is not target:
                target[...] = results[i]
                results[i] = target
        return tuple(results)

    def backward(self, op: Any, spec: Any, needs: Any, dy: Any, saved: Any, spare: bool = False) -> tuple[Any, ...]:
        roles = [op.arrays.get(name, "map") for name in op.saved]
        last = spec.channels_last
        above = dense(dy, last)
        spare = spare or above is not dy
        read = [(above, last, (), spare), *(_ready(a, role, last) for a, role in zip(saved, roles, strict=True))]
        gradients: list[Any] = [None] * len(needs)
        written: list[Any] = []
        for i, role in enumerate(["many"] * len(needs) if op.variadic else op.arrays.values()):
            if role in ("index", "random"):
                continue
            if needs[i]:
                own = above if spare and op.elementwise else None
                gradients[i] = empty(spec.inputs[i], dy.dtype, last and role != "param") if own is None else own
            written.append((gradients[i], last and role != "param", spec.inputs[i] or ()))
        if not dy.size:  # kernels divide by the lengths of what they are given
            for gradient in gradients:
                if gradient is not None:
                    gradient.fill(0)
        elif any(needs):
            _call(f"{op.kernel}_backward", dy.dtype, [written, *read] if op.variadic else written + read, spec.params)
        return tuple(gradients)

    def random(self, key: tuple[int, int], shape: tuple[int, ...], dtype: Any) -> Uniforms:
        return Uniforms(key, shape)

    def uniform(self, key: tuple[int, int], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        u = memory.empty(shape, dtype)
        module = loaded()
        kernel = getattr(module.lib, f"cc_uniform_{_SUFFIX[np.dtype(dtype)]}")
        kernel(module.ffi.cast(module.ffi.typeof(kernel).args[0], u.ctypes.data), u.size, *key)
        return u

    def full(self, shape: tuple[int, ...], value: float, dtype: Any) -> np.ndarray:
        return np.full(shape, value, dtype)


def _ready(a: Any, role: str, last: bool) -> tuple[np.ndarray | Uniforms | None, bool]:
    """An argument as kernels take it, and whether it is channels last."""
    if a is None or isinstance(a, Uniforms):
        return a, last
    if role == "index":
        return dense(np.asarray(a, np.int64), False), False
    last = last and role != "param"
    return dense(np.asarray(a), last), last


@functools.lru_cache(4096)
def _prepared(isa: str, kernel: str, params: tuple[tuple[str, Any], ...]) -> tuple[Any, Any, Any]:
    """The module's ffi, the kernel, and its parameter struct. Kernels only read that one, so that calls share it."""
    ffi, lib = _module(isa).ffi, _module(isa).lib
    function, given = getattr(lib, kernel), dict(params)
    struct = ffi.typeof(function).args[-2]
    if struct.item.kind != "struct":
        return ffi, function, ffi.NULL
    return ffi, function, ffi.new(struct, {name: _c_value(given[name]) for name, _ in struct.item.fields})


def _call(kernel: str, dtype: Any, arguments: list[Any], params: Any) -> None:
    """Call a kernel on (array, channels last[, shape]), or lists of them where it takes any number."""
    known = tuple(vars(params).items()) if params else ()
    ffi, function, struct = _prepared(current_isa(), f"{kernel}_{_SUFFIX[np.dtype(dtype)]}", known)
    packed: list[bytes] = []
    places: list[int | None] = []
    for a in arguments:
        # A list keeps its NULLs inside the tensors; a single array that is not there is a NULL tensor.
        there = isinstance(a, list) or a[0] is not None
        places.append(len(packed) if there else None)
        if there:
            packed += [_tensor(*each) for each in a] if isinstance(a, list) else [_tensor(*a)]
    tensors = ffi.from_buffer("cc_tensor[]", b"".join(packed))
    pointers = [ffi.NULL if at is None else tensors + at for at in places]
    pointers.append(struct)
    wanted = function(*pointers, ffi.NULL)
    if wanted:
        scratch = _scratch(wanted)
        function(*pointers, ffi.cast("void *", scratch.__array_interface__["data"][0]))
