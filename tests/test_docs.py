"""docs/ops says what the docstrings say, and every docstring says all of it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import cnncore as cc

DOCS = Path(__file__).parent.parent / "docs"
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
