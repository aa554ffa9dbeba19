"""How commands fail, and tables."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_cli import TINY, _few_digits, _small, command  # noqa: F401  (fixtures of every test)

import cnncore.bench.problems
import cnncore.cli.demo
from cnncore import cli, lab
from cnncore.cli import main
from cnncore.ops import records, registry
from cnncore.tables import print_table

# --- how it fails ---

WRONG = {
    "an op that is not there": (["bench", "nope"], "no op is called 'nope'"),
    "a problem that is not there": (["bench", "relu", "--only", "zzz"], "bench: no problem of relu has 'zzz'"),
    "no images": (["train", "lenet", "--images", "0"], "train: images must be at least 1, got 0"),
    "no epochs": (["train", "lenet", "--epochs", "0"], "train: epochs must be at least 1, got 0"),
    "a negative rate": (["train", "lenet", *TINY, "--lr", "-1"], "lr must be"),
    "a rate that is not a number": (["train", "lenet", *TINY, "--lr", "nan"], "lr must be"),
    "a negative shift": (["train", "lenet", *TINY, "--shift", "-1"], "shift: k must be at least 0, got -1"),
    "a batch of nothing": (["train", "lenet", *TINY, "--batch-size", "0"], "batch_size must be at least 1"),
    "an unknown pool": (["train", "lenet", *TINY, "--pool", "mean"], "pool must be one of"),
    "a folder without MNIST": (["train", "lenet", "--data", "nowhere"], "train-images-idx3-ubyte.gz: file: cannot be"),
    "an experiment without seeds": (["lab", "pooling", "--seeds", "0"], "lab: seeds must be at least 1, got 0"),
    "an experiment without workers": (["lab", "pooling", "--workers", "0"], "lab: workers must be at least 1, got 0"),
    "a run-dir that is a file": (["train", "lenet", *TINY, "--run-dir", "/dev/null/x"], "/dev/null"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_are_one_line_on_stderr(capsys, case) -> None:
    words, expected = WRONG[case]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert expected in err and err.startswith("cnncore: ") and err.count("\n") == 1 and "Traceback" not in out + err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nope"],
        ["train"],
        ["train", "nope"],
        ["train", "lenet", "--epochs", "x"],
        ["info", "--backend", "c"],
        ["lab"],
        ["lab", "nope"],
        ["lab", "pooling", "--backend", "cuda"],
    ],
)
def test_wrong_usage_is_one_line_and_status_2(capsys, words) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("cnncore") and err.count("\n") == 1 and "--help" in err


HELPS = [[name] for name in cli.COMMANDS] + [["lab", name] for name in lab.EXPERIMENTS]


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_ends_with_an_example_that_parses(capsys, words) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert words == ["lab"] or ("--json" in text and "--debug" in text)
    last = text.rstrip().splitlines()[-1].strip()
    assert last.startswith(" ".join(["cnncore", *words]))
    assert cli.parser().parse_args(last.split()[1:]).command == words[0]


def test_debug_shows_the_traceback() -> None:
    done = command("bench", "nope", "--debug")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_an_unexpected_error_is_one_line_that_names_its_type(capsys, monkeypatch) -> None:
    def broken(args):
        raise KeyError("lost\nkey")

    monkeypatch.setattr(cnncore.cli.info, "run", broken)
    assert main(["info"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("cnncore: KeyError: ") and err.count("\n") == 1 and "--debug" in err


def test_processes_return_the_status() -> None:
    assert command("info", "--json").returncode == 0
    done = command("bench", "nope")
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
    assert command("nope").returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_is_one_line_and_status_130(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "cnncore", "train", "lenet", "--epochs", "1000", "--images", "64", "--run-dir", "r"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()  # the first epoch is done: it trains
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "cnncore: interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes")
def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "cnncore", "info", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        err = process.stderr.read()
    assert err == "" and process.returncode == 141


# --- tables ---


@pytest.mark.parametrize("rich", [True, False])
def test_tables_hold_every_cell(capsys, monkeypatch, rich) -> None:
    if not rich:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    print_table("a title", ["name", "value"], [["first", 1], ["[second]", 20]])
    lines = capsys.readouterr().out.splitlines()
    assert "a title" in lines
    rows = [line for line in lines if "first" in line or "[second]" in line]
    assert len(rows) == 2 and "20" in rows[1]
    assert len({line.rstrip("│ ").rindex(end) + len(end) for line, end in zip(rows, ("1", "20"), strict=True)}) == 1


def test_an_op_without_fast_kernels_is_checked_where_it_can_be(monkeypatch, capsys):
    made_up = replace(registry["relu"], name="made_up")
    monkeypatch.setitem(records._registry, "made_up", made_up)
    assert main(["gradcheck", "made_up", "--seeds", "1"]) == 0
    assert "no kernel" in capsys.readouterr().out
    assert main(["gradcheck", "made_up", "--backend", "numpy"]) == 0
    assert main(["gradcheck", "made_up", "--backend", "c"]) == 1
    assert "declares no made_up_forward" in capsys.readouterr().err
