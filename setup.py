"""Adds the C kernels to what pyproject.toml says: one cffi module per instruction set (csrc/kernels_build.py)."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

sys.path.insert(0, str(Path(__file__).resolve().parent / "csrc"))
import kernels_build

HERE = Path(__file__).resolve().parent
PREFIX = "cnncore._native_"


class BuildKernels(build_ext):
    """All modules at once, by compiler commands of our own: Python's flags ask for debug information, among others."""

    def run(self):
        if not self.extensions:
            return super().run()
        try:
            self.compiler_found = kernels_build.inspect(kernels_build.compiler_command())
            sets = kernels_build.instruction_sets(self.compiler_found)
            self.extensions = [ext for ext in self.extensions if ext.name.removeprefix(PREFIX) in sets]
            return super().run()
        except kernels_build.BuildError as error:
            raise CompileError(f"cnncore: {error}") from None

    def build_extensions(self):
        targets = {e.name.removeprefix(PREFIX): Path(self.get_ext_fullpath(e.name)).absolute() for e in self.extensions}
        objects = Path("build" if WRITABLE else self.build_temp, "objects").absolute()
        kernels_build.build(self.compiler_found, targets, self.include_dirs, objects)

    def copy_extensions_to_source(self):
        for old in HERE.glob("cnncore/_native_*"):  # of a build for other instruction sets
            old.unlink()
        super().copy_extensions_to_source()


def extensions():
    """One per instruction set; `run` leaves out those that are not wanted. None without a compiler."""
    if os.environ.get("CNNCORE_SETS") == "none":
        return []
    if not kernels_build.has_compiler():
        print(kernels_build.MISSING, file=sys.stderr)
        return []
    return [Extension(PREFIX + isa, [], py_limited_api=kernels_build.abi3()) for isa in kernels_build.SETS]


def options():
    """The wheel's tag; where the tree cannot be written, everything is made in a temporary folder."""
    found = {"bdist_wheel": {"py_limited_api": "cp311"}} if kernels_build.abi3() else {}
    if not WRITABLE:
        elsewhere = tempfile.mkdtemp(prefix="cnncore-build-")
        atexit.register(shutil.rmtree, elsewhere, ignore_errors=True)
        found.update(build={"build_base": elsewhere}, egg_info={"egg_base": elsewhere})
    return found


if sys.maxsize < 2**32:
    sys.exit("cnncore: this Python is a 32-bit program; cnncore needs one of 64 bits")
os.chdir(HERE)
WRITABLE = os.access(HERE, os.W_OK)
setup(cmdclass={"build_ext": BuildKernels}, ext_modules=extensions(), options=options())
