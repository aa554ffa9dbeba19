"""Compiles csrc/ into one cffi module per instruction set; setup.py calls `build`. docs/building.md: what one may set.

kernels.h is the one place where C prototypes stand: the compiler includes it, and cffi's cdef gets the same file, run
through the preprocessor.

The name of an object file holds a digest of all that decides it: the compiler, every flag, the source, the headers that
it includes. So a build compiles what is new and nothing else. The baseline and what chooses the instruction set
(runtime.c, cffi's module) are compiled for the least processor of the architecture, whatever flags a builder adds.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cffi import FFI, recompiler

HERE = Path(__file__).resolve().parent
NAMES = ("cc", "gcc", "clang")
# Those that take longest to compile come first, so that the last to finish are short.
KERNELS = [
    "pool_power.c",
    "pool_draw.c",
    "lp_unit.c",
    "norm.c",
    "units.c",
    "conv_direct.c",
    "conv_winograd.c",
    "conv_winograd_weights.c",
    "pool.c",
    "contrast.c",
    "pointwise.c",
    "linear.c",
    "dense.c",
    "conv_weights.c",
    "conv_versions.c",
    "floors.c",
    "steps.c",
    "conv.c",
    "random.c",
    "layout.c",
]
PLAIN = ["runtime.c", "built.c"]  # they run before anybody knows what the processor can do
COMMON = ["-O3", "-g0", "-fPIC", "-fwrapv", "-std=gnu11", "-fvisibility=hidden", "-fno-math-errno",
          "-fno-trapping-math", "-Wall", "-Wno-unknown-pragmas", "-Wno-unused-variable"]  # fmt: skip
# Behind a builder's flags: `-march=native` among them must not reach the modules of lesser processors.
PINS = ("-march=x86-64", "-march=x86_64")  # the second is zig's name of it
SETS = {
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mbmi2", "-mprefer-vector-width=512"],
    "avx2": ["-mavx2", "-mfma", "-mbmi2", "-mno-avx512f"],
    "baseline": ["-mno-sse3"],  # without SSE3 there is nothing that came after it
}  # the fastest first
MISSING = (
    "cnncore: no C compiler was found (looked for $CC, cc, gcc, clang); the C kernels are left out and the NumPy "
    "backend computes. Install one (Debian/Ubuntu: apt install build-essential; Fedora: dnf install gcc; "
    "macOS: xcode-select --install) and install cnncore again."
)


class BuildError(Exception):
    """A build that cannot go on; its text says which command failed, and how."""


@dataclass(frozen=True)
class Compiler:
    """A compiler that works, and what it can do."""

    command: tuple[str, ...]  # as it is called
    path: str  # of the program that runs
    version: str
    target: str  # x86_64, aarch64 ..., as its macros say
    pin: str  # the flag for the least x86-64, "" elsewhere
    openmp: str  # the flag, or why there is none
    user: tuple[str, ...]  # CFLAGS and CPPFLAGS, which come before our flags
    extra: tuple[str, ...]  # CNNCORE_CFLAGS, which come behind them

    @property
    def openmp_flags(self) -> list[str]:
        return [self.openmp] if self.openmp.startswith("-") else []

    def flags(self, isa: str) -> list[str]:
        """How a file is compiled for an instruction set."""
        pinned = [self.pin, *SETS[isa]] if self.pin else []
        return [*self.user, *COMMON, *self.openmp_flags, *self.extra, *pinned]


# --- the compiler -----------------------------------------------------------------------------------------------------


def has_compiler() -> bool:
    """Whether a compiler is asked for by CC, or one of the usual names is here."""
    return bool(os.environ.get("CC") or any(map(shutil.which, NAMES)))


def compiler_command() -> list[str]:
    """The C compiler's command line: $CC, or the first of cc, gcc, clang. Raises BuildError where CC is not there."""
    asked = shlex.split(os.environ.get("CC", "")) or [next(filter(shutil.which, NAMES), NAMES[0])]
    if not shutil.which(asked[0]):
        raise BuildError(f"there is no program {asked[0]!r} (CC is {os.environ.get('CC', '')!r})")
    return asked


def run(command: Iterable[str | Path]) -> str:
    """What a command prints. Raises BuildError with all that it printed where it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=HERE.parent, capture_output=True, encoding="utf-8", errors="replace")
    except OSError as error:
        raise BuildError(f"{shlex.join(words)}\n{error}") from error
    if done.returncode:
        raise BuildError(f"{shlex.join(words)}\n{done.stdout}{done.stderr}\n(exit status {done.returncode})")
    if done.stderr:
        print(done.stderr, end="", flush=True)  # warnings
    return done.stdout


def inspect(command: list[str]) -> Compiler:
    """Ask a compiler what it is. Raises BuildError where it cannot compile, or compiles for 32 bits."""
    user = shlex.split(os.environ.get("CFLAGS", "")) + shlex.split(os.environ.get("CPPFLAGS", ""))
    extra = shlex.split(os.environ.get("CNNCORE_CFLAGS", ""))
    whole = [*command, *user, *extra]
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "try.c"), Path(folder, "try.out")
        source.write_text("")  # it includes nothing: a compiler for 32 bits may lack its headers
        macros = run([*command, *user, *COMMON, *extra, "-E", "-dM", source])
        if "__SIZEOF_POINTER__ 4" in macros:
            raise BuildError(f"{shlex.join(whole)} compiles for 32 bits; cnncore needs 64")
        source.write_text("#include <math.h>\nint main(void) { return 0; }\n")
        run([*command, *user, *COMMON, *extra, source, "-o", program])
        pins = PINS if "#define __x86_64__ " in macros else ()
        pin = next((flag for flag in pins if not _refused([*whole, flag, source, "-o", program])), "")
        source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
        reason = _refused([*whole, "-fopenmp", source, "-o", program])
    if pins and not pin:
        raise BuildError(f"{shlex.join(whole)} compiles for x86-64, and refuses {' and '.join(PINS)}")
    openmp = f"none, one thread computes: {reason}" if reason else "-fopenmp"
    path = os.path.realpath(shutil.which(command[0]) or command[0])
    version = run([*command, "--version"]).partition("\n")[0]
    target = re.search(r"#define __(x86_64|aarch64|riscv|powerpc64|s390x|loongarch64)(?:__)? ", macros)
    name = target[1] if target else "other"
    return Compiler(tuple(command), path, version, name, pin, openmp, tuple(user), tuple(extra))


def _refused(command: Iterable[str | Path]) -> str:
    """Why a command fails, in one line; "" where it does not."""
    try:
        run(command)
    except BuildError as error:
        return _reason(str(error))
    return ""


def _reason(text: str) -> str:
    """The line of a compiler's output that says what is wrong."""
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    return next((line.partition("error: ")[2] for line in lines if "error: " in line), lines[0] if lines else "failed")


def instruction_sets(compiler: Compiler) -> list[str]:
    """Those to build, the fastest first: CNNCORE_SETS, or all that the compiler knows.

    CNNCORE_SETS: names of them; all; native: the fastest that this processor runs; none.
    """
    asked = os.environ.get("CNNCORE_SETS", "all").replace(",", " ").split()
    unknown = set(asked) - {*SETS, "all", "native", "none"}
    if unknown or not asked:
        raise BuildError(f"CNNCORE_SETS is {' '.join(asked)!r}; it takes all, native, none or {', '.join(SETS)}")
    known = [isa for isa in SETS if isa == "baseline" or (compiler.pin and _knows(compiler, isa))]
    if "native" in asked:
        known = _native(compiler, known)
    elif "all" not in asked:
        if lacking := [isa for isa in asked if isa not in known and isa != "none"]:
            raise BuildError(f"CNNCORE_SETS: {compiler.version} (for {compiler.target}) lacks {', '.join(lacking)}")
        known = [isa for isa in known if isa in asked]
    return known


def _knows(compiler: Compiler, isa: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "try.c")
        source.write_text("int x;\n")
        reason = _refused([*compiler.command, *compiler.flags(isa), "-c", source, "-o", source.with_suffix(".o")])
    if reason:
        print(f"cnncore: the instruction set {isa} is left out: {reason}")
    return not reason


def _native(compiler: Compiler, known: list[str]) -> list[str]:
    """The first of them that this processor runs, as runtime.c says."""
    if len(known) == 1:
        return known
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "try.c"), Path(folder, "try.out")
        source.write_text(
            "int cc_cpu_supports(const char *);\nint main(int n, char **v) { return !cc_cpu_supports(v[1]); }\n"
        )
        run([*compiler.command, *compiler.flags("baseline"), "-I", HERE, source, HERE / "runtime.c", "-o", program])
        try:
            return [next(isa for isa in known if not subprocess.run([program, isa]).returncode)]
        except OSError as error:
            raise BuildError(
                f"CNNCORE_SETS=native: what {compiler.path} compiles does not run here: {error}"
            ) from error


# --- objects and modules ----------------------------------------------------------------------------------------------


def sources_digest() -> str:
    """Of every source and header; compiled in, so that cnncore notices that one has changed (backends/library.py)."""
    files = sorted(p for p in HERE.iterdir() if p.suffix in (".c", ".h") and not p.name.startswith("."))
    return hashlib.sha256(b"".join(p.name.encode() + b"\0" + p.read_bytes() for p in files)).hexdigest()


def _included(source: Path) -> list[Path]:
    """A file, and the headers of csrc/ that it includes, and they include."""
    found, left = [], [source]
    while left:
        path = left.pop()
        if path not in found and path.exists():
            found.append(path)
            left += [
                HERE / name.decode() for name in re.findall(rb'^\s*#\s*include\s+"([^"]+)"', path.read_bytes(), re.M)
            ]
    return sorted(found)


@dataclass(frozen=True)
class Task:
    """One file to compile for one instruction set."""

    isa: str
    source: Path
    flags: tuple[str, ...]

    def object_file(self, folder: Path, compiler: Compiler) -> Path:
        digest = hashlib.sha256(repr((compiler.path, compiler.version, compiler.command, self.flags)).encode())
        for path in _included(self.source):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return folder / f"{self.isa}-{self.source.stem}-{digest.hexdigest()[:16]}.o"

    def compile(self, folder: Path, compiler: Compiler) -> Path:
        """The object file, made where it is not there yet. Others of the same source go."""
        target = self.object_file(folder, compiler)
        if not target.exists():
            print(f"cnncore: compiling {self.source.name} for {self.isa}", flush=True)
            part = target.with_suffix(f".{os.getpid()}")
            run([*compiler.command, *self.flags, "-c", self.source, "-o", part])
            for old in folder.glob(f"{self.isa}-{self.source.stem}-*.o"):
                old.unlink(missing_ok=True)
            part.replace(target)
        return target


def _declarations(compiler: Compiler) -> str:
    """kernels.h as cffi reads it."""
    return run([*compiler.command, "-E", "-P", "-DCNNCORE_CDEF", HERE / "kernels.h"])


def _module_source(isa: str, declarations: str, folder: Path) -> Path:
    """The C file of cffi's module."""
    ffi = FFI()
    ffi.cdef(declarations)
    path = folder / f"_native_{isa}.c"
    recompiler.make_c_source(ffi, f"cnncore._native_{isa}", '#include "kernels.h"', str(path))
    return path


def _c_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _tasks(compiler: Compiler, isa: str, module: Path, includes: list[str]) -> list[Task]:
    """All files of one module, those that take longest first."""
    shown = compiler.flags(isa)
    built = {
        "SOURCES": sources_digest(),
        "COMPILER": f"{compiler.path}, {compiler.version}",
        "FLAGS": shlex.join(shown),
        "OPENMP": compiler.openmp,
    }
    defines = [f"-DCC_{name}={_c_string(text)}" for name, text in built.items()]
    own, plain = ([*compiler.flags(which), "-I", str(HERE)] for which in (isa, "baseline"))
    limited = [] if abi3() else ["-D_CFFI_NO_LIMITED_API"]
    wrapper = [*plain, "-O1", *limited, *[word for path in includes for word in ("-I", path)]]
    return [
        *[Task(isa, HERE / name, tuple(own)) for name in KERNELS],
        Task(isa, module, tuple(wrapper)),
        *[Task(isa, HERE / name, (*plain, *(defines if name == "built.c" else ()))) for name in PLAIN],
    ]


def abi3() -> bool:
    """Whether one module serves every later Python, too: not that of a free-threaded one."""
    return not sysconfig.get_config_var("Py_GIL_DISABLED")


def build(compiler: Compiler, targets: dict[str, Path], includes: list[str], folder: Path) -> None:
    """Compile and link one module per instruction set, `targets`, with object files in `folder`. Others that lie beside
    the targets, of an earlier build, go.

    Every file of every set is a task of its own for one pool of threads, so that all processors are busy to the end.
    Raises BuildError with the command that failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    declarations = _declarations(compiler)
    tasks = {isa: _tasks(compiler, isa, _module_source(isa, declarations, folder), includes) for isa in targets}
    queue = [task for group in zip(*tasks.values(), strict=True) for task in group]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        made = [pool.submit(task.compile, folder, compiler) for task in queue]
        try:
            objects = {task: future.result() for task, future in zip(queue, made, strict=True)}
        except BuildError:
            pool.shutdown(cancel_futures=True)
            raise
    shared = (
        ["-bundle", "-undefined", "dynamic_lookup"] if sysconfig.get_platform().startswith("macos") else ["-shared"]
    )
    user = [*compiler.user, *compiler.openmp_flags, *compiler.extra, *shlex.split(os.environ.get("LDFLAGS", ""))]
    for parent in {target.parent for target in targets.values()}:
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.glob("_native_*"):  # unlinked, not written over: a process may run it
            old.unlink()
    for isa, target in targets.items():
        run([*compiler.command, *shared, *[objects[task] for task in tasks[isa]], *user, "-lm", "-o", target])
