"""Adds the C kernels to what pyproject.toml says: one cffi module per instruction set (csrc/build.py)."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent / "csrc"))
import build

if build.compiler():
    modules = [f"csrc/build.py:{isa}" for isa in build.instruction_sets()]
else:
    modules = []
    print(build.MISSING, file=sys.stderr)

setup(cffi_modules=modules)
