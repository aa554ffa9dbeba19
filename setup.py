"""Adds the C kernels to what pyproject.toml says: one cffi module per instruction set (csrc/build.py)."""

import copy
import os
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent / "csrc"))
import build


class BuildKernels(build_ext):
    """Object files apart per module: every module compiles the same sources, with flags of its own."""

    def build_extension(self, ext):
        own = copy.copy(self)
        own.build_temp = os.path.join(self.build_temp, ext.name)
        build_ext.build_extension(own, ext)


if not build.compiler():
    print(build.MISSING, file=sys.stderr)

setup(
    cmdclass={"build_ext": BuildKernels},
    cffi_modules=[f"csrc/build.py:{isa}" for isa in build.instruction_sets()] if build.compiler() else [],
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
