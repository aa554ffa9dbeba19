"""The README's promises: its examples run and print what it shows, its commands parse, its files are there."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from cnncore.cli import parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def output(code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    return printed.getvalue()


def test_ten_lines() -> None:
    code = blocks("python")[0]
    printed = output(code)
    assert printed.startswith("gradcheck conv:") and ": ok\n" in printed
    assert re.search(r"epoch 1/1 .* test \d+\.\d+%", printed)
    statements = [line for line in code.splitlines() if line and not line.startswith("import")]
    assert len(statements) <= 10


def test_a_student_checks_an_own_gradient_in_under_20_lines() -> None:
    code = blocks("python")[1]
    assert code == (ROOT / "examples" / "gradcheck_your_own.py").read_text()
    assert len(code.splitlines()) < 20
    # Numbers differ in their last digits from machine to machine; words, shapes and indices do not.
    assert words(output(code)) == words(blocks("text")[0])


def words(text: str) -> list[str]:
    return re.sub(r"-?\d[\d.]*(e[-+]\d+)?(?![x\d\]])", "#", text).split()


def test_the_students_mistake_is_the_one_that_is_named() -> None:
    code = blocks("python")[1]
    right = code.replace("dy * self.x**2", "dy * 2 * self.x**2")
    assert right != code and ": ok\n" in output(right)


def test_the_context_makes_a_layer() -> None:
    code = blocks("python")[2]
    assert code == (ROOT / "examples" / "layer_of_your_own.py").read_text()
    printed = output(code)
    assert ": ok\n" in printed and re.search(r"^  1\.w +3 .* ok$", printed, re.MULTILINE)


def test_a_context_that_returns_dx_alone_makes_a_layer_too() -> None:
    """The README's first context, in a layer whose w is no parameter."""
    code = blocks("python")[2]
    alone = code.replace("self.w**2, (dy * 2 * self.x**2 * self.w).sum(axis=0)", "self.w**2")
    alone = alone.replace("cc.layers.Parameter(np.ones(size, np.float32))", "np.full(size, 2.0)").replace(
        "w.value", "w"
    )
    assert alone.count(".value") == 0 and ": ok\n" in output(alone)


def test_layers_make_a_layer() -> None:
    code = blocks("python")[3]
    assert code == (ROOT / "examples" / "composed_layer.py").read_text()
    printed = output(code)
    assert ": ok\n" in printed and re.search(r"^  conv\.weight +2x2x3x3 .* ok$", printed, re.MULTILINE)


def test_exactly_two_set_up_commands() -> None:
    section = re.search(r"^## Set up\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    assert section
    commands = re.findall(r"^    (\S.*)$", section[1], re.MULTILINE)
    assert commands == ["make demo", "make test"]
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)


@pytest.mark.parametrize("line", re.findall(r"^    (cnncore .*)$", README, re.MULTILINE))
def test_commands_parse(line) -> None:
    assert parser().parse_args(line.split()[1:]).command == line.split()[1]


def test_files_it_names_are_there() -> None:
    named = re.findall(r"\]\(([\w/.]+)\)", README) + re.findall(r"`((?:docs|cnncore)/[\w/.-]+)`", README)
    assert "docs/learning_curve.png" in named
    assert [name for name in named if not (ROOT / name).exists()] == []
