"""What a CUDA kernel is here: a Python function whose annotations are its signature. Imports Numba: load it on use.

    @kernel
    def relu_forward(y: Float1, x: Float1) -> None: ...      (no `from __future__ import annotations` in such a file)

    relu_forward.over(count, y, x)      one thread per element
    relu_forward.plane(inner, outer, *) threads along two axes, `inner` the contiguous one
    relu_forward.blocks(n, threads, *)  n blocks of exactly these threads

Arguments come in one order: outputs, saved, inputs, geometry, scalars. Arrays are C-contiguous. Every kernel enters
itself in `KERNELS`, from which `ptx.py` compiles all of them without a GPU, so none can be forgotten there.

Every kernel loops over its work in strides of the grid, so any launch size computes the same numbers. In Numba's
simulator a thread costs about 0.15 ms and a barrier about 0.5 ms; there the sizes below are small.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numba import cuda as _cuda

cuda: Any = _cuda  # what kernels call `cuda`: the simulator looks for that name; Numba's own types confuse mypy
SIMULATED = bool(cuda.config.ENABLE_CUDASIM)
cuda.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # a small problem is no reason to warn the user

# Launch sizes. Those in capitals are constants of the compiled kernels.
THREADS = 4 if SIMULATED else 256  # threads of a block
BLOCKS = 2 if SIMULATED else 8192  # most blocks of a launch that loops over its work


@dataclass(frozen=True)
class Arg:
    """The type of an argument: an array of `ndim` axes of `kind`, or a scalar (ndim 0). "float" is the op's dtype."""

    kind: str
    ndim: int = 0


@dataclass(frozen=True)
class Like:
    """The type of an argument: that of this (possibly nested) tuple of integers."""

    example: tuple[Any, ...]


@dataclass(frozen=True)
class Several:
    """The type of an argument: a tuple of so many arrays."""

    of: Arg
    count: int


Float1 = Annotated[Any, Arg("float", 1)]
Float2 = Annotated[Any, Arg("float", 2)]
Float3 = Annotated[Any, Arg("float", 3)]
Float4 = Annotated[Any, Arg("float", 4)]
Float5 = Annotated[Any, Arg("float", 5)]
Int2 = Annotated[Any, Arg("int32", 2)]
Int4 = Annotated[Any, Arg("int32", 4)]
Long1 = Annotated[Any, Arg("int64", 1)]
Byte1 = Annotated[Any, Arg("uint8", 1)]
Byte2 = Annotated[Any, Arg("uint8", 2)]
Real = Annotated[Any, Arg("float")]
Int = Annotated[int, Arg("int64")]
Word = Annotated[Any, Arg("uint64")]
Triple = Annotated[tuple[int, int, int], Like((0, 0, 0))]

KERNELS: list[Kernel] = []


class Kernel:
    """One kernel. Compiled by Numba for a dtype when it is first launched."""

    def __init__(self, function: Callable[..., None], name: str) -> None:
        self.name = name
        self.function = function
        hints = {k: v for k, v in function.__annotations__.items() if k != "return"}
        self.types: list[Arg | Like | Several] = [hint.__metadata__[0] for hint in hints.values()]
        self._compiled = cuda.jit(function)
        KERNELS.append(self)

    def over(self, count: int, *args: Any) -> None:
        """Launch about one thread per element of `count`."""
        self.blocks(min(-(-count // THREADS), BLOCKS), THREADS, *args)

    def plane(self, inner: int, outer: int, *args: Any) -> None:
        """Launch about one thread per element of outer x inner; neighbouring threads get neighbours along inner."""
        x = 1
        while x < min(inner, THREADS):
            x *= 2
        y = THREADS // x
        columns = min(-(-inner // x), BLOCKS)
        rows = min(-(-outer // y), BLOCKS // max(columns, 1))
        self.blocks((columns, rows), (x, y), *args)

    def blocks(self, grid: Any, threads: Any, *args: Any) -> None:
        """Launch this grid of blocks of these threads; nothing where the grid is empty."""
        if not np.prod(grid):
            return
        floats = next(a.dtype for a, t in zip(args, self.types, strict=True) if _is_float_array(t)).type
        values = [_scalar(a, t, floats) for a, t in zip(args, self.types, strict=True)]
        with _simulator() if SIMULATED else contextlib.nullcontext():
            self._compiled[grid, threads](*values)


def _is_float_array(t: Arg | Like | Several) -> bool:
    return isinstance(t, Arg) and t.kind == "float" and t.ndim > 0


def _scalar(value: Any, t: Arg | Like | Several, floats: Any) -> Any:
    """Scalars in exactly the type that the kernel was compiled for; everything else as it is."""
    if not isinstance(t, Arg) or t.ndim:
        return value
    if t.kind == "float":
        return floats(value)
    return np.uint64(value) if t.kind == "uint64" else int(value)


@contextlib.contextmanager
def _simulator() -> Iterator[None]:
    """The simulator polls its threads in a busy loop: at the default interval each barrier would wait 5 ms for it.
    What is Inf - Inf on a device is a warning from NumPy there."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        sys.setswitchinterval(interval)


def _shared_array(self: Any, shape: Any, dtype: Any) -> np.ndarray:
    """cuda.shared.array of the simulator: one array per line of a kernel and block. Its own looks the array up and then
    makes it, so that two threads which come to a line at once may get one each; setdefault does both in one."""
    caller = sys._getframe(1)
    return self._allocations.setdefault((caller.f_code.co_filename, caller.f_lineno), np.empty(shape, dtype))


if SIMULATED:
    _simulated: Any = importlib.import_module("numba.cuda.simulator.kernelapi")
    _simulated.FakeCUDAShared.array = _shared_array


def kernel(function: Callable[..., None], name: str = "") -> Kernel:
    """Make a function a kernel."""
    return Kernel(function, name or function.__name__)


def device(function: Callable[..., Any]) -> Any:
    """Make a function callable from kernels. It may use no `cuda.*` itself, so the simulator can call it as it is."""
    return function if SIMULATED else cuda.jit(function, device=True)


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """New memory. In the simulator it holds NaN (or an absurd integer), so that no test passes on what was there."""
    try:
        a = cuda.device_array(tuple(shape), np.dtype(dtype))
    except Exception as error:  # Numba has one class for all that the driver reports
        if "OUT_OF_MEMORY" in str(error):
            raise MemoryError(f"on the CUDA device, for shape {tuple(shape)}") from error
        raise
    if SIMULATED:
        a[...] = np.nan if a.dtype.kind == "f" else np.iinfo(a.dtype).max
    return a


def view(a: Any, *shape: int) -> Any:
    """The same memory in another shape."""
    # Numba cannot reshape an array without elements; no kernel reads one.
    return a.reshape(shape) if 0 not in a.shape else empty(shape, a.dtype)


def copy(to: Any, source: Any) -> None:
    """To device memory from the device or the host, both C-contiguous."""
    if 0 not in to.shape:  # the simulator compares the strides even of arrays without elements
        to.copy_to_device(source)


def flat(a: Any) -> Any:
    return view(a, int(np.prod(a.shape, dtype=np.int64)))
