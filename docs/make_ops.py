"""Writes docs/ops: a page per file of ops and an index, from the registry and its docstrings. `make docs` runs it.

A docstring opens with one line that says what the op is. Then come paragraphs: formulas (shown as they stand), parts
that begin with `Shapes:`, `Gradient:`, `Edges:`, `Raises` or `Source:`, and notes.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import NamedTuple

import cnncore as cc
from cnncore.ops.op import Op
from cnncore.ops.pool_names import POOLS, numbered

FOLDER = Path(__file__).parent / "ops"
PARTS = ("Shapes", "Gradient", "Edges", "Raises", "Source")
# A part begins its paragraph, its line, or stands behind a formula or sentence on the same line.
PART = re.compile(r"(?:^|(?<=   )|(?<=\. ))(?:(Shapes|Gradient|Edges|Source):|(Raises)(?= ))", re.MULTILINE)

FORMULA = re.compile(r"[\w']+(\[[^\]]*\]|\([^)]*\))? = ")  # begins as in: y = , y[n, k] = , f(x, y) =


class Docs(NamedTuple):
    """One docstring, taken apart."""

    summary: str
    body: list[str]  # formulas and notes, in Markdown
    parts: dict[str, str]  # "Gradient" -> its text


def page_of(op: Op) -> str:
    """The file the op stands in, without its ending: its page."""
    return op.rule.__module__.rsplit(".", 1)[-1]


def take_apart(op: Op) -> Docs:
    first, *paragraphs = re.split(r"\n\s*\n", inspect.getdoc(op.rule) or "")
    body, parts = [], {}
    for paragraph in paragraphs:
        # re.split gives the text before the first part, then for each part: its two groups, and its text.
        text, *rest = PART.split(paragraph)
        if text.strip():
            body.append(f"```text\n{text.rstrip()}\n```" if FORMULA.match(text) else prose(text))
        for a, b, content in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
            parts[a or b] = prose(content)
    return Docs(prose(first), body, parts)


def prose(text: str) -> str:
    """One line of Markdown that shows `text` as it stands: only its backticks keep their meaning."""
    pieces = " ".join(text.split()).split("`")
    return "`".join(re.sub(r"([*<|\\])", r"\\\1", p) if i % 2 == 0 else p for i, p in enumerate(pieces))


def call_of(op: Op) -> str:
    parameters = inspect.signature(op.rule).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return f"{op.name}{inspect.Signature(bare)}"


def missing(op: Op) -> list[str]:
    """The parts that the op's docstring lacks."""
    docs = take_apart(op)
    wanted = [part for part in PARTS if part != "Gradient" or op.backward is not None]
    gaps = [part for part in wanted if not docs.parts.get(part)]
    return gaps if any(block.startswith("```") for block in docs.body) else ["formula", *gaps]


def section(op: Op) -> str:
    docs = take_apart(op)
    gradient = "" if op.backward is not None else "No gradient."
    parts = [f"**{part}:** {docs.parts[part]}" for part in PARTS if part in docs.parts]
    blocks = [f"## {op.name}", docs.summary, f"```python\n{call_of(op)}\n```", *docs.body, gradient, *parts]
    return "\n\n".join(block for block in blocks if block)


def pool_names() -> str:
    """The table of what `pool=` takes."""
    rows = []
    for name, variant in POOLS.items():
        numbers = [f"{attribute}, {default:g} where there is none" for attribute, default in numbered(variant).items()]
        rows.append(f"| `{name}` | `{variant.name}` | `{variant.shown.layer}` | {''.join(numbers)} |")
    return "\n".join(["| name | op | layer | a number behind the name |", "| --- | --- | --- | --- |", *rows])


def pages() -> dict[str, str]:
    """File name -> text of everything that belongs in docs/ops."""
    families: dict[str, list[Op]] = {}
    for op in cc.ops.registry.values():
        families.setdefault(page_of(op), []).append(op)
    written, rows = {}, []
    for page, ops in sorted(families.items()):
        title = (inspect.getdoc(sys.modules[ops[0].rule.__module__]) or page).split(":")[0]
        written[f"{page}.md"] = "\n\n".join([f"# {title}", NOTE, *map(section, ops)]) + "\n"
        rows += [f"| [{op.name}]({page}.md#{op.name}) | {take_apart(op).summary} |" for op in ops]
    index = ["# Every op", NOTE, READING, "\n".join([HEAD, *rows]), POOL_NAMES, pool_names()]
    written["README.md"] = "\n\n".join(index) + "\n"
    return written


NOTE = "Written by `make docs` from the docstrings in `cnncore/ops`: change those, not this page."
READING = """\
Called as `y, ctx = cc.ops.NAME(...)`; `ctx.backward(dy)` gives a gradient per array. Arrays are positional, attributes
are given by name; every op also takes `backend` ("numpy", "c", "cuda") and `out`. x is (N, C, \\*S):
images, maps, and 1 to 3 spatial axes. Where a source is "the paper", it is the one that [paper.md](../paper.md)
summarises."""
POOL_NAMES = """\
## Names of pools

What `pool=` of a network, `layers.named_pool` and `HeteroPool` take, with a number behind it or without: `"max"`,
`"lp4"`. Each has the layers `MaxPool1d` to `MaxPool3d` and, over all of S, `GlobalMaxPool1d` to `GlobalMaxPool3d`.
Several joined by `+` are for `pool=` alone: each pools its share of the maps."""
HEAD = "| op | what it computes |\n| --- | --- |"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    written = pages()
    for old in FOLDER.glob("*.md"):
        if old.name not in written:
            old.unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
