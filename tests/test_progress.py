"""The progress display: a bar on a terminal, lines elsewhere, nothing when quiet."""

import sys

import pytest

from cnncore.errors import install_hint
from cnncore.progress import Progress


def run(quiet=False):
    with Progress(10, done=2, quiet=quiet) as progress:
        progress.advance(4, "loss [0.5]")
        progress.line("epoch [1] done")


def test_lines_where_there_is_no_terminal(capsys):
    run()
    assert capsys.readouterr().out == "epoch [1] done\n"


def test_nothing_when_quiet(capsys):
    run(quiet=True)
    assert capsys.readouterr().out == ""


def pretend_terminal(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    pytest.importorskip("rich")
    pretend_terminal(monkeypatch)
    run()
    out = capsys.readouterr().out
    assert "loss [0.5]" in out and "60%" in out and "epoch [1] done" in out


def test_lines_and_a_hint_where_rich_is_missing(capsys, monkeypatch):
    pretend_terminal(monkeypatch)
    for name in ("rich", "rich.progress"):
        monkeypatch.setitem(sys.modules, name, None)
    run()
    hint, line = capsys.readouterr().out.splitlines()
    assert install_hint("train") in hint and line == "epoch [1] done"
