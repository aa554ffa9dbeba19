"""`import cnncore` is light: what is large and not always needed is imported on use."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numba", "scipy", "PIL", "matplotlib", "rich", "safetensors", "cffi")


def loaded_after(code: str) -> set[str]:
    """Which modules a fresh interpreter has loaded after running `code`."""
    script = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import cnncore",
        "import cnncore as cc, numpy as np; cc.ops.relu(np.ones(3), backend='numpy')",
        "import cnncore.data; cnncore.data.mnist10k()",
        "import cnncore.cli; cnncore.cli.parser()",
    ],
)
def test_loads_no_heavy_module(code: str) -> None:
    modules = loaded_after(code)
    assert "cnncore" in modules
    found = {name for name in HEAVY if any(m == name or m.startswith(name + ".") for m in modules)}
    assert not found


def test_the_check_itself_sees_a_heavy_module() -> None:
    assert "rich" in loaded_after("import cnncore, rich")
