"""Compiles csrc/ into one cffi module per instruction set; setup.py names the builders below.

kernels.h is the one place where C prototypes stand: the compiler includes it, and cffi's cdef gets the same file, run
through the preprocessor.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = [
    "conv.c",
    "conv_direct.c",
    "conv_versions.c",
    "conv_weights.c",
    "conv_winograd.c",
    "conv_winograd_weights.c",
    "contrast.c",
    "dense.c",
    "floors.c",
    "layout.c",
    "linear.c",
    "norm.c",
    "pointwise.c",
    "pool.c",
    "pool_draw.c",
    "pool_power.c",
    "random.c",
    "runtime.c",
    "steps.c",
    "units.c",
    "lp_unit.c",
]
COMMON = ["-O3", "-std=gnu11", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math",
          "-Wall", "-Wno-unknown-pragmas", "-Wno-unused-variable"]  # fmt: skip
FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mbmi2"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mbmi2", "-mprefer-vector-width=512"],
}
MISSING = (
    "cnncore: no C compiler was found (looked for $CC, cc, gcc, clang); the C kernels are left out and the NumPy "
    "backend computes. Install one (Debian/Ubuntu: apt install build-essential; Fedora: dnf install gcc; "
    "macOS: xcode-select --install) and install cnncore again."
)


def compiler() -> list[str]:
    """The C compiler's command line: $CC, or cc, gcc, clang; [] where there is none."""
    for command in (os.environ.get("CC"), "cc", "gcc", "clang"):
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return words
    return []


def instruction_sets() -> list[str]:
    """What this compiler can target: the baseline, and on x86-64 AVX2 and AVX-512 where it knows the flags."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ["baseline"]
    return [isa for isa in FLAGS if _accepts(FLAGS[isa], "int x;")]


def openmp() -> list[str]:
    """The flag for OpenMP, or [] where the compiler has none (Apple's): the kernels then run on one thread."""
    return ["-fopenmp"] if _accepts(["-fopenmp"], "#include <omp.h>") else []


def _accepts(flags: list[str], code: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "try.c")
        source.write_text(f"{code}\n")
        command = [*compiler(), *flags, "-c", str(source), "-o", str(source.with_suffix(".o"))]
        return subprocess.run(command, capture_output=True).returncode == 0


def builder(isa: str) -> FFI:
    """cffi's description of the module `cnncore._native_<isa>`. CNNCORE_CFLAGS is appended to the compiler's flags."""
    header = subprocess.run(
        [*compiler(), "-E", "-P", "-DCNNCORE_CDEF", str(HERE / "kernels.h")], capture_output=True, text=True, check=True
    ).stdout
    digest = hashlib.sha256((HERE / "kernels.h").read_bytes()).hexdigest()
    extra = shlex.split(os.environ.get("CNNCORE_CFLAGS", ""))
    root = HERE.parent
    folder = os.path.relpath(HERE, root)
    ffi = FFI()
    ffi.cdef(header)
    ffi.set_source(
        f"cnncore._native_{isa}",
        f'#include "kernels.h"\nconst char *cc_header(void) {{ return "{digest}"; }}',
        sources=[os.path.join(folder, source) for source in SOURCES],
        depends=[str(path) for path in sorted(HERE.glob("*.h"))],
        include_dirs=[folder, "."],
        extra_compile_args=COMMON + openmp() + FLAGS[isa] + extra,
        extra_link_args=[*openmp(), *extra],
        libraries=["m"],
    )
    return ffi


# cffi looks a builder up by name: `csrc/build.py:avx2`.
baseline = functools.partial(builder, "baseline")
avx2 = functools.partial(builder, "avx2")
avx512 = functools.partial(builder, "avx512")
