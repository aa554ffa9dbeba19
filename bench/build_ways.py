"""The ways of building that bench/builds.py tries, in the order of its table."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from build_arm import aarch64
from build_places import Came, Failed, Missing, Place, Tools, compiled, expect, instructions, need

__all__ = ["WAYS", "Failed", "Missing", "Tools"]
TESTS = ("tests/test_vmath.py", "tests/test_norm.py", "tests/test_conv_kinds.py")  # a part of the kernels' tests
WITHOUT_OPENMP = """#!/bin/sh
case " $* " in *" -fopenmp "*) echo "error: unknown option -fopenmp" >&2; exit 1 ;; esac
exec {} "$@"
"""
ALL = {"CNNCORE_SETS": "all", "CNNCORE_CFLAGS": ""}  # what a user gets
OTHERS = ("python3.12", "python3.13", "python3.14")  # later Pythons, if they are here


@dataclass(frozen=True)
class Way:
    about: str
    build: Callable[[Place], Came]


WAYS: dict[str, Way] = {}


def way(name: str, about: str) -> Callable[[Callable[[Place], Came]], Callable[[Place], Came]]:
    def enter(build: Callable[[Place], Came]) -> Callable[[Place], Came]:
        WAYS[name] = Way(about, build)
        return build

    return enter


def _site(python: Path) -> Path:
    (found,) = python.parents[1].glob("lib/python*/site-packages/cnncore")
    return found


# --- from a clone, as most people do ----------------------------------------------------------------------------------


@way("clone", "a fresh clone, `pip install .`, every set")
def clone(place: Place) -> Came:
    need("gcc", "build-essential")
    tree, python = place.clone(), place.python(own=True)
    place.build(python, "-m", "pip", "install", "-q", tree, CC="gcc", **ALL)
    found = place.check(python)
    return place.came(f"works: {', '.join(found['compiled'])}; OpenMP {found['openmp']}", _site(python))


@way("sdist", "source distribution, installed, its own tests")
def sdist(place: Place) -> Came:
    tree, python = place.clone(), place.python()
    place.run(place.tools.python, "setup.py", "-q", "sdist", cwd=tree)
    (archive,) = (tree / "dist").glob("*.tar.gz")
    place.pip(python, "install", "-q", "--no-deps", archive)
    shutil.unpack_archive(archive, place.folder / "unpacked", filter="data")
    (source,) = (place.folder / "unpacked").iterdir()
    shutil.rmtree(source / "cnncore")  # what is tested is what was installed
    last = place.run(python, "-m", "pytest", *TESTS, cwd=source).splitlines()[-1]
    return place.came(f"works: {archive.stat().st_size / 1e6:.1f} MB; {last.strip('= ')}", _site(python))


@way("wheel", "one wheel of every set, for this and later Pythons")
def wheel(place: Place) -> Came:
    tree = place.clone()
    place.pip(place.tools.python, "wheel", "-q", "--no-deps", "-w", place.folder / "dist", tree, **ALL)
    (made,) = (place.folder / "dist").glob("*.whl")
    expect("-cp311-abi3-" in made.name, f"the wheel is called {made.name}")
    zipfile.ZipFile(made).extractall(place.folder / "wheel")
    for module in place.modules(place.folder / "wheel" / "cnncore"):
        headers = place.run(need("objdump", "binutils"), "-h", module)
        expect(".debug_info" not in headers, f"{module.name} holds debug information")
    came = place.came("", place.folder / "wheel" / "cnncore")
    ran = []
    for base in (sys.executable, *filter(None, map(_later, OTHERS))):
        python = place.python(own=True, base=base)
        place.run(python, "-m", "pip", "install", "-q", made)
        place.check(python)
        ran.append(place.run(python, "-c", "import platform; print(platform.python_version())").strip())
    later = f"runs on {', '.join(ran)}" + ("" if len(ran) > 1 else "; no later Python is here")
    return Came(f"works: {'-'.join(made.stem.split('-')[2:])}, {made.stat().st_size / 1e6:.1f} MB, no debug "
                f"information; {later}", came.seconds, came.size)  # fmt: skip


def _later(name: str) -> str | None:
    """A later Python, of the system or of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = sorted(pyenv.glob(f"{name.removeprefix('python')}.*/bin/{name}"))
    return str(found[0]) if found else shutil.which(name)


@way("isolation", "`pip install --no-build-isolation .`")
def isolation(place: Place) -> Came:
    tree, python = place.clone(), place.python()
    place.pip(python, "install", "-q", "--no-deps", "--no-build-isolation", tree)
    place.check(python)
    return place.came("works", _site(python))


@way("read-only", "a tree that its user cannot write")
def read_only(place: Place) -> Came:
    tree, python = place.clone(), place.python()
    before = sorted(tree.rglob("*"))
    for path in [tree, *before]:
        path.chmod(path.stat().st_mode & ~0o222)
    if os.getuid() == 0:  # root writes everywhere, but for this right
        place.prefix = (need("setpriv", "util-linux"), "--bounding-set=-dac_override,-dac_read_search")
    try:
        place.run("touch", tree / "written", fails=True)
        place.pip(python, "install", "-q", "--no-deps", "--no-build-isolation", tree)
    finally:
        for path in [tree, *before]:
            path.chmod(path.stat().st_mode | 0o200)
    place.check(python)
    expect(sorted(tree.rglob("*")) == before, "something was written into the tree")
    return place.came("works; nothing is written there", _site(python))


@way("folder", "a folder with spaces and letters beyond ASCII")
def folder(place: Place) -> Came:
    place.folder /= "zwei Wörter, 畳み込み"
    place.folder.mkdir()
    tree = place.clone()
    place.in_place(tree)
    place.check(clone=tree)
    return place.came("works", tree / "cnncore")


@way("make", "`make -j2 build`: an environment with every package")
def make(place: Place) -> Came:
    tree = place.clone()
    place.build(need("make", "make"), "-j2", "build", f"PYTHON={sys.executable}", cwd=tree)
    place.check(tree / ".venv" / "bin" / "python")
    return place.came("works", tree / "cnncore")


@way("beside", "a script beside the clone, which is installed with -e")
def beside(place: Place) -> Came:
    tree, python = place.clone(), place.python()
    place.pip(python, "install", "-q", "--no-deps", "--no-build-isolation", "-e", tree, CNNCORE_SETS="none")
    script = place.folder / "script.py"
    script.write_text("import cnncore; print(cnncore.__file__, cnncore.ops.relu.__name__)\n")
    found = place.run(python, script)
    expect(found.split() == [str(tree / "cnncore" / "__init__.py"), "relu"], f"the script finds {found}")
    return place.came("works: imports the package, not an empty namespace")


# --- the same tree again ----------------------------------------------------------------------------------------------


@way("clang", "clang, then gcc in the same tree")
def clang(place: Place) -> Came:
    need("clang", "clang libomp-dev"), need("gcc", "build-essential")
    tree, found = place.clone(), {}
    for compiler in ("clang", "gcc"):
        files = len(compiled(place.in_place(tree, CC=compiler)))
        said = place.check(clone=tree)
        expect(compiler in said["compiler"], f"after CC={compiler} the modules say {said['compiler']}")
        found[compiler] = f"{compiler} compiles {files} files, OpenMP {said['openmp']}"
    return place.came(f"works: {'; then '.join(found.values())}", tree / "cnncore")


@way("again", "the same again; one file touched; other flags")
def again(place: Place) -> Came:
    tree = place.clone()
    sets = {"CNNCORE_SETS": "baseline,avx2"} if os.uname().machine == "x86_64" else {}
    first = compiled(place.in_place(tree, **sets))
    same = compiled(place.in_place(tree, **sets))
    expect(not same, f"without a change {len(same)} files are compiled again")
    with open(tree / "csrc" / "dense.c", "a") as file:
        file.write("/* touched */\n")
    touched = compiled(place.in_place(tree, **sets))
    expect(touched.count("dense.c") == len(place.modules(tree / "cnncore")), f"dense.c touched: compiles {touched}")
    expect(set(touched) <= {"dense.c", "built.c"}, f"dense.c touched: compiles {touched}")
    place.check(clone=tree)
    flags = compiled(place.in_place(tree, CNNCORE_CFLAGS="-O0", **sets))
    expect(len(flags) == len(first), f"other flags: {len(flags)} of {len(first)} files are compiled")
    expect("-O0" in place.check(clone=tree)["flags"], "the module does not say -O0")
    return place.came(f"works: {len(first)} files; again 0; dense.c touched {' '.join(touched)}; -O0 {len(flags)}",
                      tree / "cnncore")  # fmt: skip


@way("native", "CNNCORE_CFLAGS=-march=native")
def native(place: Place) -> Came:
    tree = place.clone()
    place.in_place(tree, CNNCORE_CFLAGS="-march=native")
    (module,) = place.modules(tree / "cnncore")
    code = instructions(module)
    wide = [line for line in code.splitlines() if "%ymm" in line or "%zmm" in line or "\tv" in line]
    expect(os.uname().machine != "x86_64" or not wide, f"the baseline holds {len(wide)} instructions of AVX")
    place.check(clone=tree)
    return place.came(f"works: no AVX in the {code.count(chr(10))} lines of the baseline's code", tree / "cnncore")


# --- what must be refused or done without -----------------------------------------------------------------------------


@way("broken", "a CC that fails everything")
def broken(place: Place) -> Came:
    false = need("false", "coreutils")
    printed = place.in_place(place.clone(), fails=True, CC=false)
    expect("Traceback" not in printed and f"{false} -O3" in printed and "exit status 1" in printed, printed)
    return place.came("an error, with the command and its exit status")


@way("no-compiler", "no compiler at all")
def no_compiler(place: Place) -> Came:
    tree, python = place.clone(), place.python()
    nothing = place.folder / "nothing"
    nothing.mkdir()
    arguments = ("install", "--no-deps", "--no-build-isolation", tree)
    shown = "no C compiler was found"
    by_pip = shown in (printed := place.pip(python, *arguments, PATH=str(nothing)))
    if not by_pip:
        printed = place.pip(python, "-v", *arguments, "--force-reinstall", PATH=str(nothing))
    expect(shown in printed, "nobody says that there is no compiler")
    place.check(python, backend="numpy")
    return place.came(f"works: NumPy computes; pip{'' if by_pip else ' -v'} says {shown!r}")


@way("no-openmp", "a compiler without OpenMP")
def no_openmp(place: Place) -> Came:
    tree, compiler = place.clone(), place.folder / "cc"
    compiler.write_text(WITHOUT_OPENMP.format(need("gcc", "build-essential")))
    compiler.chmod(0o755)
    place.in_place(tree, CC=str(compiler))
    return place.came(f"works: OpenMP {place.check(clone=tree)['openmp']}", tree / "cnncore")


@way("32-bit", "a compiler for 32 bits")
def bits32(place: Place) -> Came:
    printed = place.in_place(place.clone(), fails=True, CC=f"{need('gcc', 'build-essential')} -m32")
    expect("32 bits" in printed, printed)
    return place.came(f"refused: {Failed(printed).short()}")


# --- other machines and C libraries -----------------------------------------------------------------------------------


@way("musl", "musl, by zig")
def musl(place: Place) -> Came:
    tree, python = place.clone(), place.python(own=True)
    try:
        place.run(python, "-m", "pip", "install", "-q", "ziglang")
    except Failed as error:
        raise Missing(f"ziglang cannot be installed: {error.short()}") from None
    machine = os.uname().machine
    place.env["ZIG_GLOBAL_CACHE_DIR"] = str(place.folder / "zig")
    place.in_place(tree, CC=f"{python} -m ziglang cc -target {machine}-linux-musl")
    ask = "from cnncore.backends import select; print(select.why_not('c'))"
    why = place.run(place.tools.python, "-c", ask, PYTHONPATH=str(tree))
    expect("musl" in why, f"a Python of glibc says of it: {why}")
    return place.came(f"works; a Python of glibc says: {why.strip().split(';')[0]}", tree / "cnncore")


@way("aarch64", "aarch64, cross-compiled, its tests under qemu")
def cross(place: Place) -> Came:
    return aarch64(place, TESTS[:2])  # qemu is slow
