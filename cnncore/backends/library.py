"""Finds the compiled kernels, loads the modules that this processor runs, and chooses among them.

Every module can be loaded and asked on every processor of its architecture: what it does before a kernel is called is
compiled for the least of them (csrc/kernels_build.py).
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import BackendError
from .foreign import why_not_loaded

SOURCES = Path(__file__).parents[2] / "csrc"  # in a checkout
ISAS = ("avx512", "avx2", "baseline")  # the fastest first
AGAIN = "build them again (`make build`, or `pip install .` in the clone)"
# libgomp's threads spin for milliseconds before they sleep; on a busy machine that takes the processor from those they
# wait for. About 20 us is enough to bridge the gap between two kernels. Read by libgomp when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_chosen = contextvars.ContextVar("cnncore_isa", default=os.environ.get("CNNCORE_ISA") or "")


@functools.cache
def _module(isa: str) -> Any:
    """The cffi module of one instruction set."""
    name = f"cnncore._native_{isa}"
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        found = importlib.util.find_spec(name)
        reason = why_not_loaded(Path(found.origin), error) if found and found.origin else str(error)
        raise BackendError(f"c: the compiled kernels cannot be loaded: {reason}; {AGAIN}") from error
    digest = _sources()
    if digest and digest != (_text(module, "cc_sources") if hasattr(module.lib, "cc_sources") else ""):
        raise BackendError(f"c: csrc/ has changed since the kernels were compiled; {AGAIN}")
    module.lib.cc_set_threads(_default_threads())
    return module


@functools.cache
def _sources() -> str | None:
    """The digest of a checkout's C files, as csrc/kernels_build.py compiles it in. A call of kernels made of others
    would compute something else, or crash where a kernel took other arguments."""
    if not SOURCES.is_dir():
        return None
    files = sorted(p for p in SOURCES.iterdir() if p.suffix in (".c", ".h") and not p.name.startswith("."))
    return hashlib.sha256(b"".join(p.name.encode() + b"\0" + p.read_bytes() for p in files)).hexdigest()


def _text(module: Any, function: str) -> str:
    return str(module.ffi.string(getattr(module.lib, function)()).decode(errors="replace"))


@functools.cache
def compiled() -> tuple[str, ...]:
    """The instruction sets that were compiled, the fastest first."""
    return tuple(isa for isa in ISAS if importlib.util.find_spec(f"cnncore._native_{isa}"))


@functools.cache
def supported() -> tuple[str, ...]:
    """Those of them that this CPU can run."""
    return tuple(isa for isa in compiled() if _module(compiled()[0]).lib.cc_cpu_supports(isa.encode()))


def current_isa() -> str:
    """The instruction set of the next call: `use_isa`, else CNNCORE_ISA at import, else the best this CPU has."""
    if not compiled():
        raise BackendError(
            "c: the C kernels are not built. Install a C compiler (Debian/Ubuntu: apt install build-essential) and "
            "run `make build`, or `pip install .` in the clone, again; until then the NumPy backend computes"
        )
    available = supported()
    if not available:
        raise BackendError(f"c: the C kernels are compiled for {', '.join(compiled())}, which this CPU lacks; {AGAIN}")
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
    """What was compiled and how, what runs here, and what is chosen. Raises BackendError where no kernel runs."""
    module = loaded()
    return {
        "compiled": list(compiled()),
        "supported": list(supported()),
        "isa": current_isa(),
        "threads": get_threads(),
        "vector_bytes": int(module.lib.cc_vector_bytes()),
        "compiler": _text(module, "cc_compiler"),
        "flags": _text(module, "cc_flags"),
        "openmp": _text(module, "cc_openmp"),
    }
