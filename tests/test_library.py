"""Loading the compiled kernels: what is stale or foreign is refused with the reason, and NumPy steps in audibly."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cnncore as cc
from cnncore import errors
from cnncore.backends import foreign, library, native, select
from cnncore.errors import BackendError

pytestmark = pytest.mark.skipif(not native.compiled(), reason="the C kernels are not built")
linux = pytest.mark.skipif(sys.platform != "linux", reason="ELF files are Linux's")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Load a module as a fresh process would."""

    def load_again():
        library._sources.cache_clear()
        return library._module.__wrapped__(native.compiled()[0])

    yield load_again
    monkeypatch.undo()
    library._sources.cache_clear()


@pytest.mark.skipif(not library.SOURCES.is_dir(), reason="installed without csrc")
@pytest.mark.parametrize("name", ["kernels.h", "dense.c", "simd.h"])
def test_kernels_of_other_sources_are_refused(name, load, monkeypatch, tmp_path):
    """Of another header they take other arguments, of another C file they compute something else."""
    copy = tmp_path / "csrc"
    shutil.copytree(library.SOURCES, copy)
    monkeypatch.setattr(library, "SOURCES", copy)
    assert load()
    with open(copy / name, "a") as file:
        file.write("\n")
    with pytest.raises(BackendError, match="build them again"):
        load()


def test_an_installed_package_has_no_sources_to_compare(load, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "SOURCES", tmp_path / "none")
    assert load()


def test_editors_files_do_not_count(load, monkeypatch, tmp_path):
    copy = tmp_path / "csrc"
    shutil.copytree(library.SOURCES, copy)
    (copy / ".#dense.c").symlink_to("nowhere")  # Emacs, while a file is open
    (copy / "dense.c~").write_text("old")
    monkeypatch.setattr(library, "SOURCES", copy)
    assert load()


def module() -> Path:
    return Path(importlib.util.find_spec(f"cnncore._native_{native.compiled()[0]}").origin)


@linux
def test_a_module_of_another_machine_or_libc_is_named(tmp_path):
    code, error, here = bytearray(module().read_bytes()), ImportError("what Python says"), foreign._libc_here()
    path = tmp_path / "_native_avx2.abi3.so"
    path.write_bytes(code)
    assert foreign.why_not_loaded(path, error) == "what Python says"
    other = b"libc.musl-x86_64.so.1" if here == "glibc" else b"libc.so.6\0"
    path.write_bytes(code.replace(b"libc.so.6\0", b"libc.so\0\0\0").replace(b"GLIBC_2.", b"OTHER_2.") + other)
    assert "compiled for the C library" in foreign.why_not_loaded(path, error)
    machine = 183 if code[18] == 62 else 62
    path.write_bytes(code[:18] + bytes([machine]) + code[19:])
    assert "was compiled for " + foreign.MACHINES[machine] in foreign.why_not_loaded(path, error)
    path.write_bytes(b"\xcf\xfa\xed\xfe" + bytes(100))
    assert "no program of Linux" in foreign.why_not_loaded(path, error)


def test_an_import_error_is_explained(monkeypatch):
    """The reason stands in the BackendError, and so in `cnncore info`."""

    def fail(name):
        raise ImportError("what Python says")

    monkeypatch.setattr(library.importlib, "import_module", fail)
    monkeypatch.setattr(library, "why_not_loaded", lambda path, error: f"{path.name} was compiled for a Z80")
    with pytest.raises(BackendError, match=r"_native_.*compiled for a Z80; build them again"):
        library._module.__wrapped__(native.compiled()[0])


def test_one_warning_where_numpy_computes_because_c_cannot(monkeypatch):
    monkeypatch.setattr(select, "why_not", lambda name: "c: the C kernels are not built" if name == "c" else None)
    select._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"C kernels are not built.*NumPy computes") as found:
        assert cc.ops.relu(np.ones(3))[1].backend == "numpy"
        assert cc.ops.relu(np.ones((3, 1)))[1].backend == "numpy"
    assert len(found) == 1
    select._warn_once.cache_clear()


def test_no_warning_where_numpy_was_asked_for(recwarn, monkeypatch):
    monkeypatch.setattr(select, "why_not", lambda name: "c: the C kernels are not built" if name == "c" else None)
    select._warn_once.cache_clear()
    assert cc.ops.relu(np.ones((1, 3)), backend="numpy")[1].backend == "numpy"
    with cc.use_backend("numpy"):
        assert cc.ops.relu(np.ones((1, 3, 1)))[1].backend == "numpy"
    assert not recwarn.list


def test_a_changed_c_file_shows_at_once_in_a_fresh_process(tmp_path):
    """What `cnncore info` says of a checkout whose C file was edited."""
    if not library.SOURCES.is_dir():
        pytest.skip("installed without csrc")
    root = library.SOURCES.parent
    shutil.copytree(root / "cnncore", tmp_path / "cnncore", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "csrc", tmp_path / "csrc")
    with open(tmp_path / "csrc" / "dense.c", "a") as file:
        file.write("\n")
    command = [sys.executable, "-m", "cnncore", "info"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "csrc/ has changed since the kernels were compiled" in shown


def test_the_hint_for_a_missing_extra_works_in_a_clone_and_in_an_installation(monkeypatch, tmp_path):
    """cnncore is on no index: a clone is installed by its path, an installed package knows its extras itself."""
    package = tmp_path / "a clone" / "cnncore"
    package.mkdir(parents=True)
    monkeypatch.setattr(errors, "__file__", str(package / "errors.py"))
    assert errors.install_hint("train") == "pip install 'cnncore[train]'"
    (package.parent / "pyproject.toml").touch()
    (package.parent / "csrc").mkdir()
    assert errors.install_hint("train") == f"pip install -e '{package.parent}[train]'"
