"""A run that was interrupted goes on as if it had not been."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_train import X, Y, assert_same_run, final_state, noisy, problem, trainer

import cnncore as cc
from cnncore import checkpoint
from cnncore import layers as ly
from cnncore.errors import install_hint
from cnncore.optim import SGD, Adam, CosineLR
from cnncore.train import Trainer

# --- resuming ---


@pytest.mark.parametrize("make", [None, Adam])
def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path, make):
    def new(run_dir=None):
        one = trainer(run_dir)
        one.optimizer = one.optimizer if make is None else make(one.net)
        return one

    straight = new()
    straight.fit(problem(), problem(40), epochs=6, batch_size=8, augment=noisy)
    for until in (2, 3, 6, 6):
        last = new(tmp_path)
        last.fit(problem(), problem(40), epochs=until, batch_size=8, augment=noisy, resume=True)
    assert_same_run(straight, last)
    told = json.loads((tmp_path / "checkpoint.json").read_text())
    assert told["epoch"] == 6 and told["step"] == 48 and told["settings"]["batch_size"] == 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.json", "checkpoint.safetensors"]


def test_training_anew_does_not_read_the_old_checkpoint(tmp_path):
    trainer(tmp_path).fit(problem(), epochs=2)
    again = trainer(tmp_path)
    again.fit(problem(), epochs=1)
    assert len(again.history) == 1 and checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["epoch"] == 1


def slow(x, rng):
    """Draws what `noisy` draws."""
    time.sleep(0.004)
    return noisy(x, rng)


def run_slowly(run_dir):
    """What the process under fire runs: 6 epochs of 8 batches, 30 ms or more each."""
    one = trainer(run_dir, quiet=False)
    one.fit(problem(), problem(40), epochs=6, batch_size=8, augment=slow, resume=True)
    return one


def test_a_run_killed_at_random_moments_ends_where_it_would_have(tmp_path):
    straight = trainer()
    straight.fit(problem(), problem(40), epochs=6, batch_size=8, augment=noisy)
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_resume; " + (
        f"print('ready', flush=True); test_resume.run_slowly({str(tmp_path)!r})"
    )
    for epochs in (0, 1, 1, 1):
        run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
        for _ in range(epochs):
            run.stdout.readline()  # printed once the epoch's checkpoint is there
        time.sleep(random.uniform(0, 0.05))
        run.send_signal(signal.SIGKILL)
        run.communicate(timeout=60)
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["epoch"] >= 3
    assert_same_run(straight, run_slowly(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.json", "checkpoint.safetensors"]


@pytest.mark.parametrize(
    ("changes", "fit", "text"),
    [
        ({"seed": 5}, {}, "seed: 4 in the checkpoint, 5 now"),
        ({"schedule": CosineLR(7)}, {}, "schedule: CosineLR(epochs=6.0, least=0.0) in the checkpoint, CosineLR(epo"),
        ({}, {"batch_size": 16}, "batch size: 8 in the checkpoint, 16 now"),
        ({}, {"augment": noisy}, "augmentation: None in the checkpoint, noisy [code "),
    ],
)
def test_other_settings_are_not_resumed(tmp_path, changes, fit, text):
    trainer(tmp_path).fit(problem(), epochs=1, batch_size=8)
    with pytest.raises(cc.CnncoreError) as caught:
        trainer(tmp_path, **changes).fit(problem(), epochs=2, resume=True, **{"batch_size": 8, **fit})
    assert text in str(caught.value)


def change_record(**fields):
    return lambda arrays, record: record.update(fields)


def change_history(**fields):
    return lambda arrays, record: record["history"][1].update(fields)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (change_record(epoch=-1), "epoch must be an integer from 0"),
        (change_record(epoch="2"), "epoch must be an integer"),
        (change_record(epoch=3), "history must be a list of 3 records"),
        (change_record(step=-8), "step must be an integer"),
        (change_record(step=7), "step is 7, optimizer.steps 16"),
        (change_record(history={}), "history must be a list"),
        (change_record(history=[1, 2]), "history[0] must hold epoch 1"),
        (change_record(settings=[]), "settings must hold optimizer"),
        (change_history(epoch=5), "history[1] must hold epoch 2"),
        (change_history(lr=-1), "history[1].lr must be"),
        (change_history(train_loss=None), "history[1].train_loss must be"),
        (change_history(seconds="1"), "history[1].seconds must be"),
        (lambda arrays, record: arrays.pop("net.0.bias"), "net: the names differ: missing 0.bias"),
        (lambda arrays, record: arrays.update({"net.0.bias": np.zeros(3, "f4")}), "net: 0.bias must have shape (16,)"),
        (lambda arrays, record: arrays.update({"net.2.key": np.array([2, -1])}), "net: 2.key must be uint64"),
        (lambda arrays, record: arrays.update({"optimizer.steps": np.zeros(2, "u8")}), "optimizer: steps must have"),
        (lambda arrays, record: arrays.update({"other.w": np.zeros(2)}), "unknown array 'other.w'"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(tmp_path, change, text):
    trainer(tmp_path).fit(problem(), epochs=2, batch_size=8)
    path = tmp_path / "checkpoint.safetensors"
    arrays, record = checkpoint.load(path)
    change(arrays, record)
    checkpoint.save(path, arrays, record)
    fresh = trainer(tmp_path)
    before = final_state(fresh)
    with pytest.raises(cc.FormatError) as caught:
        fresh.fit(problem(), epochs=3, batch_size=8, resume=True)
    assert str(caught.value).startswith(f"{path}: ") and text in str(caught.value)
    for name, a in final_state(fresh).items():
        np.testing.assert_array_equal(a, before[name])
    assert fresh.history == []


def test_missing_safetensors_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    net = ly.Sequential(ly.Linear(2, 23))
    trainer = Trainer(net, SGD(net, lr=0.1), run_dir=tmp_path)
    with pytest.raises(cc.CnncoreError, match=re.escape(install_hint("train"))):
        trainer.fit((X, Y), epochs=1)
    assert trainer.history == []
