"""docs/ops says what the docstrings say, and every docstring says all of it. The map of the files is right. csrc/ keeps
its comments and files short: measurements belong to docs/kernels/.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import cnncore as cc

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
C_FILES = sorted(path for path in (ROOT / "csrc").iterdir() if path.suffix in (".c", ".h"))
LONGEST_COMMENT = 20  # lines
LONGEST_FILE = 450
make = runpy.run_path(str(DOCS / "make_ops.py"))
PAGES = make["pages"]()


@pytest.mark.parametrize("page", PAGES)
def test_page_is_fresh(page: str) -> None:
    path = DOCS / "ops" / page
    assert path.exists(), f"docs/ops/{page} is missing: run `make docs`"
    assert path.read_text(encoding="utf-8") == PAGES[page], f"docs/ops/{page} is stale: run `make docs`"


def test_no_page_is_left_over() -> None:
    assert {path.name for path in (DOCS / "ops").iterdir()} == set(PAGES)


@pytest.mark.parametrize("name", list(cc.ops.registry))
def test_docstring_is_complete(name: str) -> None:
    gaps = make["missing"](cc.ops.registry[name])
    assert not gaps, f"{name}: its docstring does not say: {', '.join(gaps)}"


def test_a_gap_is_named() -> None:
    import dataclasses

    def rule(x):
        """Twice x.

        From x = 1 it makes 2.   Gradient: 2 dy.

        Shapes: any.
        Source: none.
        """

    op = dataclasses.replace(cc.ops.registry["relu"], rule=rule)
    assert make["missing"](op) == ["formula", "Edges", "Raises"]
    assert make["missing"](dataclasses.replace(op, rule=lambda x: None)) == ["formula", *make["PARTS"]]


def test_index_links_to_every_op() -> None:
    links = re.findall(r"\[(\w+)\]\((\w+\.md)#(\w+)\)", PAGES["README.md"])
    assert {name for name, _, _ in links} == set(cc.ops.registry)
    for name, page, anchor in links:
        assert name == anchor and f"\n## {anchor}\n" in PAGES[page]


def sections() -> dict[str, set[str]]:
    """The map in docs/architecture.md: for every top folder, the names of files that its lines hold."""
    block = (DOCS / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    named: dict[str, set[str]] = {}
    for line in block.splitlines():
        if folder := re.match(r"(\w+)/", line):
            here = named.setdefault(folder[1], set())
        if line:
            here |= set(re.findall(r"(?<![\w*/])\w+\.(?:py|c|h|md)\b", line))
    return named


@pytest.mark.parametrize("folder, names", sections().items())
def test_files_of_the_map_exist(folder: str, names: set[str]) -> None:
    gone = names - {path.name for path in (ROOT / folder).rglob("*")}
    assert not gone, f"docs/architecture.md names files that are not in {folder}/: {', '.join(sorted(gone))}"


def test_the_map_names_every_file_of_csrc() -> None:
    files = {path.name for path in (ROOT / "csrc").iterdir() if path.suffix in (".c", ".h", ".py")}
    left = files - sections()["csrc"]
    assert not left, f"the map in docs/architecture.md lacks {', '.join(sorted(left))} of csrc/"


def comment_blocks(source: str) -> list[tuple[int, int]]:
    """Runs of lines that hold comments alone, as (first line, number of lines)."""
    blocks, first, inside = [], 0, False
    for number, line in enumerate([*source.splitlines(), "code"], 1):
        text = line.strip()
        alone = inside or text.startswith("//") or (text.startswith("/*") and text.partition("*/")[2] == "")
        if alone and not first:
            first = number
        if alone:
            inside = (inside or text.startswith("/*")) and "*/" not in text
        elif first:
            blocks.append((first, number - first))
            first = 0
    return blocks


def test_comment_blocks_are_found() -> None:
    source = "/* one\n * two */\n/* three */\nint a; /* no */\n// four\n/* five */ int b;\n"
    assert comment_blocks(source) == [(1, 3), (5, 1)]


@pytest.mark.parametrize("path", C_FILES, ids=lambda path: path.name)
def test_comments_of_csrc_are_short(path: Path) -> None:
    long = [at for at, lines in comment_blocks(path.read_text(encoding="utf-8")) if lines > LONGEST_COMMENT]
    assert not long, f"{path.name}: comments of more than {LONGEST_COMMENT} lines begin in lines {long}"


@pytest.mark.parametrize("path", C_FILES, ids=lambda path: path.name)
def test_files_of_csrc_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{path.name} has {lines} lines, more than {LONGEST_FILE}: cut it by subject"
