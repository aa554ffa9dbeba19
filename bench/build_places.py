"""Where bench/builds.py builds: clones, virtual environments, commands and what their failures say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

# A convolution and its gradients, by the best backend there is and by the definition.
CHECK = """
import json, numpy as np, cnncore as cc
from cnncore.backends import native
draw = np.random.default_rng(0).standard_normal
x, w, b = (draw(shape, np.float32) for shape in ((2, 5, 9, 9), (7, 5, 3, 3), (7,)))
results = []
for backend in (None, "numpy"):
    y, ctx = cc.ops.conv(x, w, b, padding=1, **({"backend": backend} if backend else {}))
    results.append((ctx.backend, [y, *ctx.backward(y)]))
(chosen, found), (_, right) = results
error = max(float(np.abs(f - r).max() / np.abs(r).max()) for f, r in zip(found, right))
print(json.dumps({"backend": chosen, "error": error, "file": cc.__file__, **(native.info() if chosen == "c" else {})}))
"""
PACKAGES = ("setuptools>=77", "cffi>=1.17", "numpy>=2.0", "wheel", "pytest", "hypothesis")
OURS = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "PYTHONPATH", "VIRTUAL_ENV", "CNNCORE_SETS", "CNNCORE_CFLAGS")

QUICK = {"CNNCORE_SETS": "baseline", "CNNCORE_CFLAGS": "-O1"}


class Missing(Exception):
    """A tool that a way needs is not here."""


class Failed(Exception):
    """A way does not do what it must; the text is all that a command printed, or a sentence."""

    def short(self) -> str:
        """The line that says most."""
        lines = [line.strip() for line in str(self).splitlines() if line.strip()]
        told = [line for line in lines if "error" in line.lower() or "cnncore:" in line]
        return (told or lines or ["no word"])[-1][:300]


@dataclass(frozen=True)
class Came:
    """What a way brought: a sentence, seconds of the build, MB of the modules."""

    result: str
    seconds: float | None = None
    size: float | None = None


def need(program: str, package: str) -> str:
    """The path of a program. Raises Missing with Debian's package that holds it."""
    if path := shutil.which(program):
        return path
    raise Missing(f"{program} is not installed (Debian: {package})")


def expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise Failed(otherwise)


@dataclass
class Place:
    """The folder of one way. `env` is set for every command."""

    tools: Tools
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()  # before every command
    seconds: float = 0  # what builds took

    def run(self, *command: str | Path, cwd: Path | None = None, fails: bool = False, **env: str) -> str:
        """What a command prints. Raises Failed where it fails, or with `fails`, where it does not."""
        kept = {key: value for key, value in os.environ.items() if key not in OURS}
        settings = kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "TMPDIR": str(self.folder)} | self.env | env
        done = subprocess.run(
            [*self.prefix, *map(str, command)], cwd=cwd or self.folder, env=settings, timeout=3600,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
        )  # fmt: skip
        if (done.returncode != 0) is not fails:
            raise Failed(done.stdout or f"{command[0]} ends with status {done.returncode}")
        return done.stdout

    def build(self, *command: str | Path, cwd: Path | None = None, fails: bool = False, **env: str) -> str:
        """`run`, timed; the baseline alone, compiled quickly, where `env` does not ask for others."""
        start = time.monotonic()
        try:
            return self.run(*command, cwd=cwd, fails=fails, **(QUICK | env))
        finally:
            self.seconds += time.monotonic() - start

    def clone(self, name: str = "cnncore") -> Path:
        to = self.folder / name
        self.run("git", "clone", "-q", "--no-hardlinks", self.tools.root, to)
        return to

    def python(self, own: bool = False, base: str = sys.executable) -> Path:
        """The Python of a new virtual environment that sees the tools' packages; `own`: that sees none."""
        where = self.folder / f"venv-{Path(base).parts[-3]}-{len(list(self.folder.iterdir()))}"
        self.run(base, "-m", "venv", *([] if own else ["--without-pip"]), where)
        if not own:
            (site,) = where.glob("lib/python*/site-packages")
            (site / "tools.pth").write_text(f"{self.tools.packages}\n")
        return where / "bin" / "python"

    def pip(self, python: Path, *arguments: str | Path, **env: str) -> str:
        """pip of the tools, on another environment; timed as a build."""
        return self.build(self.tools.python, "-m", "pip", "--python", python, *arguments, **env)

    def in_place(self, clone: Path, *, fails: bool = False, **env: str) -> str:
        """`setup.py build_ext --inplace`: prints what it compiles."""
        return self.build(self.tools.python, "setup.py", "-q", "build_ext", "--inplace", cwd=clone, fails=fails, **env)

    def check(self, python: Path | None = None, clone: Path | None = None, backend: str = "c") -> dict[str, Any]:
        """Compute something with the package of an environment, or of a clone. Raises Failed where it is wrong."""
        where = {"PYTHONPATH": str(clone)} if clone else {}
        printed = self.run(python or self.tools.python, "-c", CHECK, **where)
        found: dict[str, Any] = json.loads(printed.splitlines()[-1])
        expect(found["backend"] == backend, f"{found['backend']} computes, not {backend}")
        expect(found["error"] < 1e-4, f"the convolution is wrong by {found['error']:.1e}")
        return found

    def modules(self, package: Path) -> list[Path]:
        return sorted(package.glob("_native_*.so"))

    def came(self, result: str, package: Path | None = None) -> Came:
        """With the size of a package's modules."""
        size = sum(path.stat().st_size for path in self.modules(package)) / 1e6 if package else None
        return Came(result, self.seconds, size)


@dataclass
class Tools:
    """What all ways share: the repository, and an environment with the packages that builds and tests need."""

    root: Path
    folder: Path

    def place(self, folder: Path) -> Place:
        return Place(self, folder)

    @cached_property
    def python(self) -> Path:
        at = self.folder / "tools"
        place = self.place(self.folder)
        place.run(sys.executable, "-m", "venv", at)
        place.run(at / "bin" / "python", "-m", "pip", "install", "-q", *PACKAGES)
        return at / "bin" / "python"

    @cached_property
    def packages(self) -> Path:
        """The folder of its packages."""
        (found,) = self.python.parents[1].glob("lib/python*/site-packages")
        return found


def instructions(module: Path) -> str:
    """A module's code, as text."""
    command: Sequence[str] = (need("objdump", "binutils"), "-d", "--no-show-raw-insn", str(module))
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compiled(printed: str) -> list[str]:
    """The files that a build says it compiled. (Of two threads, lines may stand in one.)"""
    return re.findall(r"cnncore: compiling (\S+) for", printed)
