"""The command line: what it prints, saves and returns, and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cnncore.bench.problems
import cnncore.cli.demo
from cnncore import checkpoint, plots
from cnncore.cli import main
from cnncore.errors import install_hint
from cnncore.lab.pooled_signal import Size
from cnncore.ops import records, registry

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


OTHERS = {
    "pooling": (["--pool", "avg"], "network layer 2: MaxPool2d(kernel_size=2, stride=2) in the checkpoint, AvgPool2d("),
    "shifts": (["--shift", "0"], "augmentation: shift(1) in the checkpoint, shift(0) now"),
    "dropout": (["--dropout", "0"], "network layer 9: Dropout(p=0.5) in the checkpoint, Dropout(p=0.0) now"),
    "all three": (["--pool", "avg", "--shift", "0", "--dropout", "0"], "augmentation: shift(1) in the checkpoint"),
    "model": (
        ["--pool", "max"],
        "; network layers: Sequential(): 0 1 2 3 4 5 6 7 8 9 10 in the checkpoint, Sequential",
    ),
    "epochs": (["--epochs", "2"], "schedule: CosineLR(epochs=1.0, least=0.0) in the checkpoint, CosineLR(epochs=2.0"),
    "optimizer": (["--optimizer", "adam"], "optimizer name: SGD in the checkpoint, Adam now"),
    "decay": (["--weight-decay", "0"], "optimizer weight_decay 0.weight: 0.0005 in the checkpoint, 0.0 now"),
    "images": (["--images", "31"], "train data: 32 samples"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_run_made_with_other_options_is_not_resumed(capsys, tmp_path: Path, case) -> None:
    words, text = OTHERS[case]
    model = "zeiler_fergus" if case == "model" else "lenet"
    assert main(["train", "lenet", *TINY, "--json", "--run-dir", "r"]) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "r").iterdir()}
    capsys.readouterr()
    assert main(["train", model, *TINY, "--json", "--run-dir", "r", "--resume", *words]) == 1
    err = capsys.readouterr().err
    assert "cannot resume another run" in err and text in err and "0x" not in err
    assert {p.name: p.read_bytes() for p in (tmp_path / "r").iterdir()} == before  # metrics.json is still that run's


def test_a_run_with_other_digits_is_not_resumed(capsys, monkeypatch) -> None:
    from cnncore import data

    assert main(["train", "lenet", *TINY, "--json", "--run-dir", "r"]) == 0
    (x, y), test = data.mnist10k()
    other_x, other_test = x.copy(), (test[0], test[1][::-1].copy())
    other_x[31, 0, 27, 27] = 1
    for digits, text in ((((other_x, y), test), "train data"), (((x, y), other_test), "test data")):
        monkeypatch.setattr(data, "mnist", lambda folder, digits=digits: digits)
        capsys.readouterr()
        assert main(["train", "lenet", *TINY, "--json", "--run-dir", "r", "--resume", "--data", "there"]) == 1
        assert f"cannot resume another run: {text}: " in capsys.readouterr().err
    monkeypatch.setattr(data, "mnist", lambda folder: ((x.copy(), y), test))  # the same digits, from elsewhere
    assert main(["train", "lenet", *TINY, "--json", "--run-dir", "r", "--resume", "--data", "there"]) == 0


def test_a_run_dir_may_begin_with_a_tilde(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(["train", "lenet", *TINY, "--json", "--run-dir", "~/runs/one"]) == 0
    assert (tmp_path / "home" / "runs" / "one" / "metrics.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    ("words", "label"),
    [
        ([], "training, with shifts and dropout"),
        (["--shift", "0"], "training, with dropout"),
        (["--dropout", "0"], "training, with shifts"),
        (["--shift", "0", "--dropout", "0"], "training"),
    ],
)
def test_the_learning_curve_says_what_training_went_through(monkeypatch, capsys, words, label) -> None:
    labels = []
    monkeypatch.setattr(plots, "missing", lambda: None)
    monkeypatch.setattr(plots, "learning_curve", lambda *args, training: labels.append(training))
    monkeypatch.setattr(plots, "filters", lambda *args: None)
    assert main(["train", "lenet", *TINY, "--json", *words]) == 0
    assert labels == [label]


@pytest.mark.parametrize(
    "words", [["train", "lenet", *TINY], ["lab", "pooled-signal", "--quick", "--seeds", "1"]], ids=["train", "lab"]
)
def test_missing_pictures_are_told_before_the_work(capsys, monkeypatch, words) -> None:
    monkeypatch.setattr(plots, "missing", lambda: "pictures need matplotlib: pip install 'cnncore[plot]'")
    monkeypatch.setattr("cnncore.lab.pooled_signal.QUICK", Size((0.5,), images=1, steps=2))
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pictures need matplotlib: pip install 'cnncore[plot]'"
    assert not any("matplotlib" in line for line in lines[1:])
    assert main([*words, "--json"]) == 0
    json.loads(capsys.readouterr().out)


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


def without_kernels(name: str) -> None:
    raise cnncore.BackendError(f"{name}: no kernels")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "safetensors is not installed: pip install"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--pool", "mean"], "pool must be one of"),
        (["--lr", "-1"], "lr must be"),
        (["--shift", "-1"], "k must be at least 0"),
        (["--data", "nowhere"], "cannot be"),
        (["--backend", "c"], "no kernels"),
    ],
)
def test_demo_says_what_is_missing_or_wrong_before_any_work(capsys, monkeypatch, tmp_path: Path, words, text) -> None:
    work = []
    monkeypatch.setattr(cnncore.cli.demo, "check_gradients", lambda quiet: work.append("gradients") or [])
    if not words:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    if words == ["--backend", "c"]:
        monkeypatch.setattr("cnncore.backends.select.load", without_kernels)
    assert main(["demo", *words]) == 1
    assert text in capsys.readouterr().err and not work and not (tmp_path / "runs").exists()


def test_demo_stops_at_a_wrong_gradient(capsys, monkeypatch, tmp_path: Path) -> None:
    relu = registry["relu"]
    wrong = replace(relu, backward=lambda p, needs, dy, y: (1.01 * relu.backward(p, needs, dy, y)[0],))
    monkeypatch.setitem(records._registry, "relu", wrong)
    assert main(["demo", *TINY]) == 1
    assert "demo: wrong gradients: relu on numpy" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
