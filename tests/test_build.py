"""csrc/kernels_build.py and setup.py: what is compiled anew, what is refused, and what a module, a wheel and a source
distribution hold. A stand-in for a compiler, which writes down how it is called, makes most of it quick."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cnncore.backends import native

ROOT = Path(__file__).parents[1]
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
needs_objdump = pytest.mark.skipif(shutil.which("objdump") is None, reason="binutils are not installed")
needs_setuptools = pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="no setuptools")

STAND_IN = """#!/bin/sh
case " $* " in
    *--version*) echo "{version}"; exit ;;
    *" -E "*) exec {compiler} "$@" ;;
    *"-c "*) echo "$@" >> "{log}" ;;
esac
while [ $# -gt 0 ]; do
    [ "$1" = -o ] && : > "$2"
    shift
done
"""


def stand_in(folder: Path, version: str = "stand-in 1", name: str = "cc-stand-in") -> Path:
    """A compiler that writes empty files, and a line into `folder`/log for every file it compiles."""
    path = folder / name
    path.write_text(STAND_IN.format(version=version, compiler=COMPILER, log=folder / "log"))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what builds, in a folder whose name has a space and a letter beyond ASCII."""
    copy = tmp_path / "ein Ört" / "cnncore"
    copy.mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "csrc", copy / "csrc", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "cnncore", copy / "cnncore", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return copy


class Builder:
    """kernels_build of a copy, with a stand-in compiler."""

    def __init__(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = importlib.util.spec_from_file_location("kernels_build_copy", tree / "csrc" / "kernels_build.py")
        assert spec and spec.loader
        self.module: Any = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, self.module)  # dataclasses look their module up
        spec.loader.exec_module(self.module)
        self.tree, self.monkeypatch = tree, monkeypatch
        for name in ("CC", "CFLAGS", "CPPFLAGS", "CNNCORE_CFLAGS", "CNNCORE_SETS"):
            monkeypatch.delenv(name, raising=False)
        self.use(stand_in(tree))

    def use(self, compiler: Path) -> None:
        self.monkeypatch.setenv("CC", f"'{compiler}'")

    def compiled(self) -> list[str]:
        """Build, and say which files were compiled."""
        log = self.tree / "log"
        log.unlink(missing_ok=True)
        compiler = self.module.inspect(self.module.compiler_command())
        targets = {isa: self.tree / f"{isa}.so" for isa in self.module.SETS}
        self.module.build(compiler, targets, [], self.tree / "objects")
        lines = log.read_text().splitlines() if log.exists() else []
        return sorted(Path(line.rpartition(" -c ")[2].partition(" -o ")[0]).name for line in lines)


@pytest.fixture
def builder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    return Builder(tree, monkeypatch)


def test_only_what_changed_is_compiled(builder: Builder) -> None:
    sets, names = len(builder.module.SETS), [*builder.module.KERNELS, *builder.module.PLAIN]
    assert sorted(names) == sorted(p.name for p in (builder.tree / "csrc").glob("*.c")), "a C file that nobody compiles"
    first = builder.compiled()
    assert len(first) == sets * (len(names) + 1)  # and cffi's module
    assert builder.compiled() == []
    with open(builder.tree / "csrc" / "dense.c", "a") as file:
        file.write("/* changed */\n")
    assert builder.compiled() == sorted(["dense.c", "built.c"] * sets)  # built.c: the new digest
    with open(builder.tree / "csrc" / "vmath.h", "a") as file:
        file.write("/* changed */\n")
    found = builder.compiled()
    assert found.count("norm.c") == sets and "pool.c" not in found  # pool.c does not include it
    with open(builder.tree / "csrc" / "kernels.h", "a") as file:
        file.write("/* changed */\n")
    assert builder.compiled() == first


@pytest.mark.parametrize("name", ["CFLAGS", "CNNCORE_CFLAGS"])
def test_other_flags_compile_anew(builder: Builder, name: str) -> None:
    first = builder.compiled()
    builder.monkeypatch.setenv(name, "-DOTHER=1")
    assert builder.compiled() == first


@pytest.mark.parametrize("other", [{"version": "stand-in 2"}, {"name": "another-stand-in"}])
def test_another_compiler_compiles_anew(builder: Builder, other: dict[str, str]) -> None:
    first = builder.compiled()
    builder.use(stand_in(builder.tree, **other))
    assert builder.compiled() == first


def test_an_object_that_was_left_half_written_is_not_used(builder: Builder) -> None:
    """A compiler that is killed leaves its output under another name."""
    failing = builder.tree / "cc-stand-in"
    text = failing.read_text()
    half = '*"/dense.c -o"*) while [ "$1" != -o ]; do shift; done; echo half > "$2"; exit 1 ;;'
    failing.write_text(text.replace('*"-c "*)', f'{half}\n    *"-c "*)'))
    with pytest.raises(builder.module.BuildError, match=r"dense\.c"):
        builder.compiled()
    assert not list((builder.tree / "objects").glob("*-dense-*.o"))
    failing.write_text(text)
    assert builder.compiled().count("dense.c") == len(builder.module.SETS)


def test_modules_of_other_instruction_sets_go(builder: Builder) -> None:
    """They would be stale at the next change, and a wheel would hold them."""
    compiler = builder.module.inspect(builder.module.compiler_command())
    lib, objects = builder.tree / "lib", builder.tree / "objects"
    for sets in (["avx2", "baseline"], ["baseline"]):
        builder.module.build(compiler, {isa: lib / f"_native_{isa}.abi3.so" for isa in sets}, [], objects)
        assert sorted(p.name for p in lib.iterdir()) == [f"_native_{isa}.abi3.so" for isa in sets]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_compiler_that_fails_is_an_error_with_its_output(builder: Builder) -> None:
    broken = builder.tree / "broken"
    broken.write_text("#!/bin/sh\necho 'the disk is on fire' >&2\nexit 3\n")
    broken.chmod(0o755)
    builder.use(broken)
    with pytest.raises(builder.module.BuildError, match=r"(?s)broken.*try\.c.*the disk is on fire.*exit status 3"):
        builder.module.inspect(builder.module.compiler_command())


def test_a_compiler_that_is_not_there_is_an_error(builder: Builder) -> None:
    builder.use(builder.tree / "nowhere")
    assert builder.module.has_compiler()
    with pytest.raises(builder.module.BuildError, match="nowhere"):
        builder.module.compiler_command()


def test_32_bits_are_refused(builder: Builder) -> None:
    path = builder.tree / "cc-stand-in"
    path.write_text(
        path.read_text().replace('*" -E "*) exec', '*" -E "*) echo "#define __SIZEOF_POINTER__ 4"; exit; exec')
    )
    with pytest.raises(builder.module.BuildError, match="32 bits"):
        builder.module.inspect(builder.module.compiler_command())


def test_without_openmp_the_reason_is_kept(builder: Builder) -> None:
    path = builder.tree / "cc-stand-in"
    path.write_text(path.read_text().replace('case " ', 'case " $* " in *" -fopenmp "*) echo "try.c:1: error: no omp" >&2; exit 1 ;; esac\ncase " ', 1))  # fmt: skip # noqa: E501
    compiler = builder.module.inspect(builder.module.compiler_command())
    assert compiler.openmp == "none, one thread computes: no omp" and compiler.openmp_flags == []
    assert "-fopenmp" not in compiler.flags("baseline")


def test_unknown_instruction_sets_are_refused(builder: Builder) -> None:
    compiler = builder.module.inspect(builder.module.compiler_command())
    for asked, kept in (("baseline", ["baseline"]), ("none", []), ("", None), ("avx1024", None)):
        builder.monkeypatch.setenv("CNNCORE_SETS", asked)
        if kept is None:
            with pytest.raises(builder.module.BuildError, match="CNNCORE_SETS"):
                builder.module.instruction_sets(compiler)
        else:
            assert builder.module.instruction_sets(compiler) == kept


# --- what comes out ---------------------------------------------------------------------------------------------------


def setup(tree: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("CC", "CFLAGS", "CNNCORE_CFLAGS", "CNNCORE_SETS")}
    done = [sys.executable, "setup.py", "-q", *command]
    return subprocess.run(done, cwd=tree, env=kept | env, capture_output=True, text=True, timeout=300)


@needs_setuptools
def test_setup_fails_where_the_compiler_fails(tree: Path) -> None:
    done = setup(tree, "build_ext", "--inplace", CC=shutil.which("false") or "false")
    assert done.returncode != 0
    assert "false" in done.stderr and "exit status 1" in done.stderr and "Traceback" not in done.stderr


@needs_setuptools
def test_setup_without_a_compiler_says_so_and_goes_on(tree: Path) -> None:
    done = setup(tree, "build_ext", "--inplace", PATH="/nowhere")
    assert done.returncode == 0, done.stderr
    assert "no C compiler was found" in done.stderr


@needs_setuptools
def test_a_wheel_serves_every_later_python(tree: Path) -> None:
    done = setup(tree, "bdist_wheel", CC=f"'{stand_in(tree)}'")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    assert wheel.name.startswith("cnncore-") and "-cp311-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"cnncore/_native_{isa}.abi3.so" for isa in ("baseline", "avx2", "avx512")} <= set(names)
    assert not [name for name in names if not name.startswith("cnncore")]


@needs_setuptools
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_the_source_distribution_holds_what_the_repository_holds(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    files = [name for name in listed if name and (ROOT / name).is_file()]
    for name in files:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "tree" / name)
    done = setup(tmp_path / "tree", "sdist")
    assert done.returncode == 0, done.stderr
    (archive,) = (tmp_path / "tree" / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        found = {m.name.partition("/")[2] for m in opened.getmembers() if m.isfile()}
    made = {name for name in found if name in ("PKG-INFO", "setup.cfg") or name.startswith("cnncore.egg-info/")}
    assert found - made == set(files)


@needs_setuptools
def test_a_script_beside_the_clone_imports_the_package(tree: Path, tmp_path: Path) -> None:
    """The clone's folder is called cnncore: Python takes it for a namespace where the package comes behind sys.path."""
    done = setup(tree, "editable_wheel", "--dist-dir", str(tmp_path / "wheel"), CNNCORE_SETS="none")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = tree.parent / "script.py"
    script.write_text(
        "import site, sys\n"
        f"sys.path = [path for path in sys.path if path != {str(ROOT)!r}]\n"  # an editable installation of this clone
        f"site.addsitedir({str(tmp_path / 'site')!r})\n"
        "import cnncore; print(cnncore.__file__, cnncore.ops.relu.__name__)\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    found = subprocess.run([sys.executable, script], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[0] == f"{tree / 'cnncore' / '__init__.py'} relu"


# --- what was compiled ------------------------------------------------------------------------------------------------


def functions(path: str | Path) -> dict[str, str]:
    """The instructions of every function of an object file or module."""
    command = ["objdump", "-d", "--no-show-raw-insn", str(path)]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = [part.partition(">:\n") for part in code.split("\n\n") if ">:\n" in part]
    return {head.rpartition("<")[2]: body for head, _, body in parts}


def wide(code: dict[str, str]) -> list[str]:
    """The functions that use registers of AVX or AVX-512, or its instructions on narrower ones."""
    return [name for name, body in code.items() if "%ymm" in body or "%zmm" in body or "\tv" in body]


def module(isa: str) -> str:
    spec = importlib.util.find_spec(f"cnncore._native_{isa}")
    if spec is None or not spec.origin:
        pytest.skip(f"{isa} is not compiled")
    return spec.origin


@needs_objdump
@pytest.mark.skipif("avx2" not in native.compiled(), reason="not x86-64")
def test_the_baseline_is_the_baseline() -> None:
    assert wide(functions(module("baseline"))) == []
    assert len(wide(functions(module("avx2")))) > 100  # the check sees them


@needs_objdump
@pytest.mark.skipif("avx2" not in native.compiled(), reason="not x86-64")
@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_what_runs_before_the_processor_is_known_is_the_baseline(isa: str) -> None:
    code = functions(module(isa))
    early = {n: c for n, c in code.items() if n.startswith(("_cffi_", "PyInit", "cc_cpu", "cc_set_", "cc_sources"))}
    assert len(early) > 100 and wide(early) == []


@needs_objdump
@pytest.mark.skipif("avx2" not in native.compiled(), reason="not x86-64")
@pytest.mark.parametrize("flags", ["-march=native", "-mavx512f", "-mavx2 -mfma -O2"])
def test_a_builders_flags_do_not_reach_the_baseline(builder: Builder, flags: str, tmp_path: Path) -> None:
    builder.monkeypatch.delenv("CC")
    builder.monkeypatch.setenv("CNNCORE_CFLAGS", flags)
    compiler = builder.module.inspect(builder.module.compiler_command())
    source = builder.tree / "csrc" / "steps.c"
    for isa, clean in (("baseline", True), ("avx2", False)):
        made = builder.module.Task(isa, source, tuple(compiler.flags(isa))).compile(tmp_path, compiler)
        code = functions(made)
        assert (wide(code) == []) is clean
        assert not [name for name, body in code.items() if "%zmm" in body]


@needs_objdump
def test_modules_hold_no_debug_information_and_are_small() -> None:
    for isa in native.compiled():
        headers = subprocess.run(["objdump", "-h", module(isa)], capture_output=True, text=True, check=True).stdout
        assert ".text" in headers and ".debug_info" not in headers
    assert sum(Path(module(isa)).stat().st_size for isa in native.compiled()) < 8 << 20


def test_modules_say_how_they_were_built() -> None:
    about = native.info()
    assert "-O3" in about["flags"] and about["compiler"].startswith("/") and about["openmp"]
