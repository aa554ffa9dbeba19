"""`make builds`: builds cnncore from source in every way that people use, and says what came.

    python bench/builds.py              all of them, about 20 minutes on two idle cores
    python bench/builds.py NAME ...     some of them; the others' rows stay

Every way has a temporary folder of its own with a clone of HEAD: what is not committed is not built. The table goes
into docs/building.md, between two marks. The exit status says whether every way did what it must. A way whose tools are
missing says so in its row, and fails nothing. Where a way is not about instruction sets or
speed it builds the baseline alone, with -O1.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from build_ways import WAYS, Failed, Missing, Tools

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "building.md"
BEGIN, END = "<!-- bench/builds.py writes this table -->", "<!-- end of the table -->"
HEAD = ("| way | what is built | s | MB | result |", "| --- | --- | ---: | ---: | --- |")


@dataclass(frozen=True)
class Row:
    """What came of one way: seconds of the builds, megabytes of the kernels' modules, and a sentence."""

    way: str
    about: str
    seconds: float | None
    size: float | None
    result: str
    failed: bool = False

    def __str__(self) -> str:
        seconds = "" if self.seconds is None else f"{self.seconds:.0f}"
        size = "" if self.size is None else f"{self.size:.1f}"
        return f"| {self.way} | {self.about} | {seconds} | {size} | {self.result.replace('|', '/')} |"


def try_way(name: str, tools: Tools) -> Row:
    way = WAYS[name]
    with tempfile.TemporaryDirectory(prefix=f"cnncore-{name}-") as folder:
        try:
            came = way.build(tools.place(Path(folder)))
        except Missing as error:
            return Row(name, way.about, None, None, f"not tried: {error}")
        except Failed as error:
            return Row(name, way.about, None, None, f"**fails**: {error.short()}", failed=True)
    return Row(name, way.about, came.seconds, came.size, came.result)


def written(rows: dict[str, Row], text: str) -> str:
    """The page with these rows in its table; those of other ways stay as they are."""
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} lacks the marks {BEGIN} and {END}")
    kept = {line.split("|")[1].strip(): line for line in table.splitlines() if re.match(r"\| [a-z0-9]", line)}
    lines = [str(rows[name]) if name in rows else kept[name] for name in WAYS if name in rows or name in kept]
    return "\n".join([before + BEGIN, *HEAD, *lines, END + after])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help=f"ways to try: {', '.join(WAYS)} (default: all)")
    names = parser.parse_args().name or list(WAYS)
    if unknown := [name for name in names if name not in WAYS]:
        parser.error(f"there is no way {', '.join(unknown)}; there are: {', '.join(WAYS)}")
    if not shutil.which("git") or subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
        parser.error("builds are made of clones: git and a repository are needed")
    rows, start = {}, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cnncore-builds-") as folder:
        tools = Tools(ROOT, Path(folder))
        for name in names:
            rows[name] = try_way(name, tools)
            print(rows[name], flush=True)
    PAGE.write_text(written(rows, PAGE.read_text()))
    print(f"{len(rows)} ways, {(time.monotonic() - start) / 60:.0f} minutes")
    return any(row.failed for row in rows.values())


if __name__ == "__main__":
    sys.exit(main())
