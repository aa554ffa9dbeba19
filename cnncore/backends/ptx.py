"""Every CUDA kernel compiled without a GPU: `python -m cnncore.backends.ptx [--json] [NAME ...]`.

The simulator runs kernels as Python and so hides what a compiler would reject. Here each kernel is compiled by Numba to
PTX, and the PTX assembled by NVIDIA's `ptxas`, for every architecture and dtype; what ptxas says of registers, spills
and shared memory is printed. Needs the extra cnncore[cuda], whose wheel nvidia-cuda-nvcc brings a ptxas new enough for
Numba's PTX. Exits with 1 where a kernel fails, with 2 where a tool is missing.

In a process of its own: the simulator and the compiler cannot be had in one.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..errors import BackendError, CnncoreError, install_hint

ARCHITECTURES = ((7, 5), (8, 0), (9, 0))
DTYPES = ("float32", "float64")
# Instructions that compute in float64. Sums (and moves, conversions, comparisons) may be so for float32, too.
FLOAT64 = re.compile(r"^\s+(?:@\S+\s+)?(?!add|sub|cvt|mov|ld|st|selp|setp)\S+\.f64\s", re.MULTILINE)
FIELDS = {
    "registers": r"Used (\d+) registers",
    "stack": r"(\d+) bytes stack frame",
    "spill_stores": r"(\d+) bytes spill stores",
    "spill_loads": r"(\d+) bytes spill loads",
    "shared": r"(\d+) bytes smem",
}


def find_ptxas() -> Path:
    """The assembler of the wheel nvidia-cuda-nvcc."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvcc") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in ("ptxas", "ptxas.exe"):
            return Path(str(file.locate()))
    raise BackendError(f"ptx: no ptxas: nvidia-cuda-nvcc is not installed ({install_hint('cuda')})")


def signature(kernel: Any, dtype: str) -> tuple[Any, ...]:
    """Numba's argument types of a kernel, from its annotations."""
    from numba.cuda.typing.typeof import typeof

    from .kernel import Like, Several, cuda

    def numba_type(t: Any) -> Any:
        if isinstance(t, Like):
            return typeof(t.example)
        if isinstance(t, Several):
            return cuda.types.UniTuple(numba_type(t.of), t.count)
        scalar = getattr(cuda.types, dtype if t.kind == "float" else t.kind)
        return cuda.types.Array(scalar, t.ndim, "C") if t.ndim else scalar

    return tuple(numba_type(t) for t in kernel.types)


def assemble(ptxas: Path, ptx: str, arch: tuple[int, int]) -> dict[str, int]:
    """Registers, spills and shared memory (bytes) as ptxas reports them; raises CnncoreError with what it rejects."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [str(ptxas), "-v", f"-arch=sm_{arch[0]}{arch[1]}", str(source), "-o", str(Path(folder, "kernel.o"))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    if done.returncode:
        raise CnncoreError(f"ptxas: {said.strip()}")
    found = {field: re.search(pattern, said) for field, pattern in FIELDS.items()}
    if found["registers"] is None:
        raise CnncoreError(f"ptxas: no kernel in its report: {said.strip()}")
    return {field: int(match[1]) if match else 0 for field, match in found.items()}


def lower(kernel: Any, dtype: str) -> Any:
    """A kernel typed and lowered by Numba: a library that gives the PTX for any architecture.

    What `cuda.compile_ptx` does first, and does anew for every architecture: most of the time, for the same result.
    """
    from numba.cuda import dispatcher

    compiler: Any = importlib.import_module("numba.cuda.compiler")
    lowest = ARCHITECTURES[0]
    # Numba asks the GPU for its architecture when a kernel calls a device function, even here.
    dispatcher.get_current_device = functools.partial(SimpleNamespace, compute_capability=lowest)
    types = signature(kernel, dtype)
    return compiler._compile_pyfunc_with_fixup(kernel.function, types, device=False, abi="numba", cc=lowest)[0]


def inspect_kernel(kernel: Any, dtype: str, ptxas: Path) -> Iterator[dict[str, Any]]:
    """One record per architecture."""
    library: Any = None
    for arch in ARCHITECTURES:
        record: dict[str, Any] = {"kernel": kernel.name, "dtype": dtype, "arch": f"sm_{arch[0]}{arch[1]}"}
        begin = time.perf_counter()
        try:
            library = library or lower(kernel, dtype)
            (ptx,) = library.get_asm_strs(cc=arch)
            record.update(assemble(ptxas, ptx, arch))
            record["f64"] = len(FLOAT64.findall(ptx))
        except Exception as error:  # any of Numba's many: the report shall name every kernel that fails
            record["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        yield {**record, "seconds": round(time.perf_counter() - begin, 3)}


def compile_all(names: list[str], show: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """One record per kernel x dtype x architecture; `show` is called with each as it is done."""
    ptxas = find_ptxas()
    from .cuda import load_tables

    load_tables()
    from . import philox_cuda  # noqa: F401  (its kernel belongs to no op)
    from .kernel import KERNELS, SIMULATED

    if SIMULATED:
        raise BackendError("ptx: Numba was imported as the simulator, which has no compiler")
    unknown = set(names) - {k.name for k in KERNELS}
    if unknown:
        raise CnncoreError(f"ptx: no kernel is called {sorted(unknown)[0]!r}")
    records = []
    for kernel in (k for k in KERNELS if not names or k.name in names):
        for dtype in DTYPES:
            for record in inspect_kernel(kernel, dtype, ptxas):
                records.append(record)
                show(record)
    return records


def _show(record: dict[str, Any]) -> None:
    what = f"{record['kernel']:24s} {record['dtype']:8s} {record['arch']:6s}"
    if "error" in record:
        print(f"{what} FAILED: {record['error']}", flush=True)
    else:
        print(what + "".join(f" {record[field]:>12d}" for field in FIELDS), flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cnncore.backends.ptx", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of the table")
    parser.add_argument("name", nargs="*", help="kernels (default: all)")
    options = parser.parse_args(arguments)
    os.environ["NUMBA_ENABLE_CUDASIM"] = "0"
    if not options.json:
        print(f"{'kernel':24s} {'dtype':8s} {'arch':6s}" + "".join(f" {field:>12s}" for field in FIELDS))
    try:
        records = compile_all(options.name, (lambda record: None) if options.json else _show)
    except CnncoreError as error:
        print(error, file=sys.stderr)
        return 2
    failed = sum("error" in record for record in records)
    if options.json:
        print(json.dumps(records, indent=1))
    else:
        spilled = sum(bool(r.get("spill_stores", 0)) for r in records)
        print(
            f"{len(records)} compiled, {failed} failed, {spilled} spill, {sum(r['seconds'] for r in records):.0f} s "
            "(registers per thread; stack, spills and shared memory in bytes)"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
