"""Every CUDA kernel compiles to PTX and assembles, for every architecture and dtype, without a GPU.

The simulator runs Python, so only this finds typing errors. About 45 s of one core; in processes of its own, since one
that has the simulator has no compiler.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import cnncore
from cnncore.backends import ptx

PACKAGE = Path(cnncore.__file__).parent
IN_DOUBLE = {"stochastic_pool_forward"}  # what it draws must not depend on rounding in float32


def python(*arguments, timeout=600):
    search = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=timeout,
        env={**os.environ, "PYTHONPATH": search},
    )  # fmt: skip


def kernels_in_the_source():
    """Names of the functions under `@kernel`, found by reading the files, not through the table."""
    for file in sorted(PACKAGE.glob("ops/*_cuda.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and any(ast.unparse(d) == "kernel" for d in node.decorator_list):
                yield node.name


def test_every_kernel_assembles_everywhere():
    done = python("-m", "cnncore.backends.ptx", "--json")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    records = json.loads(done.stdout)
    names = {r["kernel"] for r in records}
    assert names >= {*kernels_in_the_source(), "conv_forward", "conv_input", "conv_weight"}
    assert len(names) > 15
    triples = {(r["kernel"], r["dtype"], r["arch"]) for r in records}
    assert len(triples) == len(records) == len(names) * len(ptx.DTYPES) * len(ptx.ARCHITECTURES)
    for r in records:
        assert 0 < r["registers"] <= 255, r
        assert r["spill_stores"] == r["spill_loads"] == r["stack"] == 0, r  # sums stay in registers
        assert r["shared"] <= 48 * 1024, r
        if r["dtype"] == "float32" and r["kernel"] not in IN_DOUBLE:
            assert r["f64"] == 0, f"computes in float64 what is no sum: {r}"
    assert any(r["f64"] for r in records), "the count of float64 instructions finds none at all"


BROKEN = """
import sys
from cnncore.backends import ptx, cuda
cuda.load_tables()
from cnncore.backends.kernel import Float1, kernel

@kernel
def broken(y: Float1, x: Float1) -> None:
    y[0] = x.no_such_thing

sys.exit(ptx.main(["broken"]))
"""


def test_a_kernel_that_does_not_compile_is_reported():
    """It would run in the simulator up to the line in question."""
    done = python("-c", "import os; os.environ['NUMBA_ENABLE_CUDASIM'] = '0'\n" + BROKEN)
    assert done.returncode == 1, done.stderr
    assert "no_such_thing" in done.stdout and "6 failed" in done.stdout


def test_an_unknown_name_is_an_error():
    done = python("-m", "cnncore.backends.ptx", "no_such_kernel")
    assert done.returncode == 2
    assert "no kernel is called 'no_such_kernel'" in done.stderr
