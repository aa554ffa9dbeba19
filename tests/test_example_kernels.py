"""The C kernels of docs/pooling-variant.md, built into a copy of the tree: they pass what every kernel passes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from engines import NATIVE

ROOT = Path(__file__).parent.parent
WHAT = "top_two_pool and baseline and not cuda"
TESTS = [f"tests/test_{name}.py" for name in ("registry", "backends", "memory_formats", "gradcheck")]


def test_the_page_holds_the_example():
    assert (ROOT / "examples/top_two_pool.c").read_text() in (ROOT / "docs/pooling-variant.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not NATIVE, reason="the C kernels are not built")
def test_the_example_has_c_kernels(tmp_path):
    tree = tmp_path / "tree"
    for name in ("cnncore", "csrc", "tests", "examples", "setup.py", "pyproject.toml", "README.md"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("_native_*", "__pycache__"))
        else:
            shutil.copy(source, tree / name)
    page = (ROOT / "docs" / "pooling-variant.md").read_text()
    prototypes = "".join(re.findall(r"^KERNEL\(top_two.*\n", page, re.M))
    header = tree / "csrc" / "kernels.h"
    before, first, after = header.read_text().partition("KERNEL(max_pool_forward")
    header.write_text(before + prototypes + first + after)
    file = tree / "csrc" / "pool.c"
    body, end, _ = file.read_text().rpartition("#endif")
    file.write_text(body + (tree / "examples" / "top_two_pool.c").read_text() + end + "\n")
    build = {**os.environ, "CNNCORE_SETS": "baseline", "CNNCORE_CFLAGS": "-O1"}
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=tree, env=build, check=True)
    path = os.pathsep.join([str(tree), str(tree / "examples")])
    command = [sys.executable, "-m", "pytest", "-p", "top_two_pool", "-k", WHAT, *TESTS]
    done = subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    found = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and found and int(found[1]) > 15, done.stdout[-4000:]
