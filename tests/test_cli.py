"""The command line: what it prints, saves and returns, and how it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cnncore.bench.problems
import cnncore.cli.demo
from cnncore import checkpoint, cli, lab, plots
from cnncore.cli import main
from cnncore.errors import install_hint
from cnncore.ops import op, registry
from cnncore.tables import print_table

TINY = ["--images", "32", "--epochs", "1", "--batch-size", "16", "--shift", "1"]


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path: Path) -> None:
    """Small benchmark arrays, and no file left outside tmp_path."""
    monkeypatch.setattr(cnncore.bench.problems, "SHAPE", (3, 4, 6, 6))
    monkeypatch.setattr("cnncore.bench.measure.COPY_BYTES", 1 << 20)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch) -> None:
    """The last 60 test digits only, so that evaluation is quick on the NumPy backend too."""
    from cnncore import data

    (train, (x, y)) = data.mnist10k()
    monkeypatch.setattr(data, "mnist10k", lambda: (train, (x[-60:], y[-60:])))


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m cnncore ...` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cnncore", *words],
        capture_output=True, text=True, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


# --- info ---


def test_info_json(capsys) -> None:
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == cnncore.__version__ and found["numpy"] == np.__version__
    assert found["cores"] >= 1 and found["cpu"]
    assert list(found["backends"]) == ["numpy", "c", "cuda"] and found["backends"]["numpy"] == "available"
    assert list(found["ops"]) == list(registry)
    assert found["ops"]["conv"]["numpy"] == "forward, backward"
    assert found["ops"]["adam_step"]["numpy"] == "forward (no gradient)"
    assert (found["native"] is not None) == (found["backends"]["c"] == "available")


def test_info_prints_every_op_and_why_a_backend_is_missing(capsys, monkeypatch) -> None:
    from cnncore.backends import select

    true = select.why_not
    monkeypatch.setattr(select, "why_not", lambda name: "no such luck" if name == "cuda" else true(name))
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in registry)
    assert "no such luck" in text


# --- bench ---


def test_bench_json(capsys) -> None:
    assert main(["bench", "max_pool", "relu", "--json", "--seconds", "0", "--backend", "numpy"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["peaks"]["fma"] > 0 and found["peaks"]["copy"] > 0
    assert {(r["op"], r["problem"]) for r in found["rows"]} == {
        ("max_pool", "2x2/2"), ("max_pool", "3x3/2"), ("relu", "3x4x6x6")
    }  # fmt: skip
    assert {r["format"] for r in found["rows"]} == {"contiguous", "channels_last"}
    assert {r["backend"] for r in found["rows"]} == {"numpy"}


def test_bench_prints_a_table(capsys) -> None:
    assert main(["bench", "max_pool", "--only", "3x3", "--format", "contiguous", "--seconds", "0"]) == 0
    text = capsys.readouterr().out
    assert "GFLOP/s fused multiply-add" in text and "3x3/2" in text and "% copy" in text and "2x2/2" not in text


def test_bench_fails_where_a_kernel_is_wrong(capsys, monkeypatch) -> None:
    op = registry["relu"]

    def wrong(p, x):
        return (np.maximum(x, 0) + (0.01 if x.dtype == np.float32 else 0),)

    problem = replace(cnncore.bench.problems_of(op)[0], op=replace(op, forward=wrong))
    monkeypatch.setattr(cnncore.bench, "problems_of", lambda op: [problem])
    assert main(["bench", "relu", "--backend", "numpy", "--seconds", "0"]) == 1
    assert capsys.readouterr().err.startswith("cnncore: bench: relu 3x4x6x6 (numpy, contiguous): output y differs")


# --- train ---


def test_train_saves_what_it_says(capsys, tmp_path: Path) -> None:
    assert main(["train", "lenet", *TINY, "--json", "--seed", "3", "--pool", "avg"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    folder = tmp_path / "runs" / "lenet"
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    chosen = metrics["settings"]
    assert (chosen["seed"], chosen["pool"], chosen["images"], chosen["lr"]) == (3, "avg", 32, 0.03)
    assert metrics["test_accuracy"] == metrics["history"][-1]["test_accuracy"]
    confusion = np.array(metrics["confusion"])
    assert confusion.sum() == 60 and metrics["test_accuracy"] == np.trace(confusion) / 60
    assert metrics["seconds"] > 0 and len(metrics["history"]) == 1
    arrays, record = checkpoint.load(folder / "checkpoint.safetensors")
    assert record["epoch"] == 1 and arrays["net.0.weight"].shape == (32, 1, 5, 5)
    for name in metrics["pictures"]:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert metrics["pictures"] == ([] if plots.missing() else ["learning_curve.png", "filters.png"])


def test_train_takes_the_networks_own_pooling_or_any_other(capsys) -> None:
    for name, options in (("zeiler_fergus", {}), ("any_size", {"pool": "max+lp4", "dropout": 0.1})):
        words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
        assert main(["train", name, *TINY, "--json", *words]) == 0
        chosen = json.loads(capsys.readouterr().out)["settings"]
        assert (chosen["pool"], chosen["dropout"]) == (options.get("pool"), options.get("dropout"))


def test_train_prints_confusion_and_where_it_saved(capsys) -> None:
    assert main(["train", "lenet", *TINY, "--run-dir", "here", "--optimizer", "adam"]) == 0
    text = capsys.readouterr().out
    assert "test accuracy" in text and "of 60)" in text and "saved in here: checkpoint.safetensors" in text


def test_train_is_a_function_of_its_settings(capsys) -> None:
    results = []
    for seed in ("1", "1", "2"):
        assert main(["train", "lenet", *TINY, "--json", "--seed", seed]) == 0
        results.append(json.loads(capsys.readouterr().out)["history"][0]["train_loss"])
    assert results[0] == results[1] != results[2]


def test_train_resumes(capsys, tmp_path: Path) -> None:
    """A finished run that is resumed trains nothing more and reports the same."""
    assert main(["train", "lenet", *TINY, "--json", "--run-dir", "r"]) == 0
    first = json.loads(capsys.readouterr().out)
    before = (tmp_path / "r" / "checkpoint.safetensors").read_bytes()
    assert main(["train", "lenet", *TINY, "--json", "--run-dir", "r", "--resume"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["history"] == first["history"] and again["confusion"] == first["confusion"]
    assert (tmp_path / "r" / "checkpoint.safetensors").read_bytes() == before


def test_resuming_with_other_settings_fails(capsys) -> None:
    assert main(["train", "lenet", *TINY, "--json", "--run-dir", "r"]) == 0
    assert main(["train", "lenet", *TINY, "--json", "--run-dir", "r", "--resume", "--seed", "9"]) == 1
    assert "cannot resume" in capsys.readouterr().err


def test_train_without_matplotlib_says_how_to_get_it(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plots, "missing", lambda: "pictures need matplotlib: pip install it")
    assert main(["train", "lenet", *TINY, "--run-dir", "r"]) == 0
    assert "pictures need matplotlib: pip install it" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        "checkpoint.json", "checkpoint.safetensors", "metrics.json"
    ]  # fmt: skip


def test_train_without_safetensors_fails_before_it_trains(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["train", "lenet", *TINY]) == 1
    assert capsys.readouterr().err == f"cnncore: safetensors is not installed: {install_hint('train')}\n"
    assert not (tmp_path / "runs").exists()


# --- demo ---


def test_demo(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cnncore.cli.demo, "PROBLEMS", {"max_pool": ["2x2/2"]})
    assert main(["demo", *TINY]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in registry)
    assert "test accuracy" in text and "GFLOP/s" in text
    assert f"checks of {len(registry)} ops on numpy" in text
    metrics = json.loads((tmp_path / "runs" / "demo" / "metrics.json").read_text())
    assert 0 <= metrics["test_accuracy"] <= 1


def test_demo_json_and_quick(capsys, monkeypatch) -> None:
    monkeypatch.setattr(cnncore.cli.demo, "PROBLEMS", {"max_pool": ["2x2/2"]})
    monkeypatch.setattr(cnncore.cli.demo, "QUICK", {"epochs": 1, "images": 64})
    assert main(["demo", "--quick", "--json", "--run-dir", "q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {g["subject"] for g in found["gradients"]} == set(registry)
    assert all(g["ok"] for g in found["gradients"])
    assert found["metrics"]["settings"]["images"] == 64 and found["bench"]["rows"]


def test_demo_stops_at_a_wrong_gradient(capsys, monkeypatch, tmp_path: Path) -> None:
    relu = registry["relu"]
    wrong = replace(relu, backward=lambda p, needs, dy, y: (1.01 * relu.backward(p, needs, dy, y)[0],))
    monkeypatch.setitem(op._registry, "relu", wrong)
    assert main(["demo", *TINY]) == 1
    assert "demo: wrong gradients: relu on numpy" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


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
    monkeypatch.setitem(op._registry, "made_up", made_up)
    assert main(["gradcheck", "made_up", "--seeds", "1"]) == 0
    assert "no kernel" in capsys.readouterr().out
    assert main(["gradcheck", "made_up", "--backend", "numpy"]) == 0
    assert main(["gradcheck", "made_up", "--backend", "c"]) == 1
    assert "declares no made_up_forward" in capsys.readouterr().err
