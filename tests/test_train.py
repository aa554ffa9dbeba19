"""The loader, the Trainer, and resuming: bit for bit, after SIGKILL too."""

import contextlib
import errno
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import cnncore as cc
from cnncore import checkpoint
from cnncore import layers as ly
from cnncore.loader import batches, order
from cnncore.optim import SGD, Adam, CosineLR, StepLR
from cnncore.train import Trainer, accuracy, evaluating, predict

X = np.arange(46, dtype=np.float32).reshape(23, 2)
Y = np.arange(23)


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("cnncore-loader")]


def final_state(one):
    return {**one.net.state_dict(), **{f"optimizer {n}": a for n, a in one.optimizer.state_dict().items()}}


def without_times(history):
    return [{k: v for k, v in r.items() if k not in ("seconds", "images_per_second")} for r in history]


def assert_same_run(one, other):
    expected = final_state(one)
    for name, a in final_state(other).items():
        np.testing.assert_array_equal(a, expected[name], err_msg=name)
    assert without_times(one.history) == without_times(other.history)


# --- the loader ---


def test_every_sample_comes_once_with_its_label():
    found = list(batches(X, Y, 5, seed=1, epoch=0))
    assert [len(x) for x, _ in found] == [5, 5, 5, 5, 3]
    x, y = (np.concatenate(parts) for parts in zip(*found, strict=True))
    assert sorted(y) == list(Y)
    np.testing.assert_array_equal(x, X[y])
    assert not loader_threads()


def test_the_order_is_a_function_of_seed_and_epoch():
    assert (order(50, 3, 4) == order(50, 3, 4)).all()
    different = {tuple(order(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(different) == 16
    first = [order(4, 0, epoch)[0] for epoch in range(400)]  # each of 4 first, 100 times on average, sigma 8.7
    assert all(60 < first.count(i) < 140 for i in range(4))


def noisy(x, rng):
    return x + rng.standard_normal(x.shape).astype(x.dtype)


def test_augmentation_is_a_function_of_seed_epoch_and_batch():
    def noise(seed, epoch, slow=False):
        """The noise of every batch, with the worker faster or slower than its reader."""
        found = []
        for x, y in batches(X, Y, 5, seed=seed, epoch=epoch, augment=noisy):
            if slow:
                time.sleep(0.002)
            found.append(x - X[y])
        return np.concatenate(found)

    np.testing.assert_array_equal(noise(1, 2), noise(1, 2, slow=True))
    assert (noise(1, 2) != noise(1, 3)).all() and (noise(1, 2) != noise(2, 2)).all()
    assert len(np.unique(noise(1, 2))) > 0.9 * X.size  # no batch draws what another drew


def test_the_next_batch_is_made_while_this_one_is_used():
    made = threading.Semaphore(0)

    def augment(x, rng):
        made.release()
        return x

    with contextlib.closing(batches(X, Y, 5, seed=0, epoch=0, augment=augment)) as found:
        next(found)
        assert made.acquire(timeout=30) and made.acquire(timeout=30)  # the second while the first is in hand
        assert not made.acquire(timeout=0.05)  # and no third


def test_what_goes_wrong_in_the_thread_reaches_the_caller_and_ends_it():
    calls = []

    def augment(x, rng):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyError("third batch")
        return x

    found = []
    with pytest.raises(KeyError, match="third batch"):
        for x, _ in batches(X, Y, 5, seed=0, epoch=0, augment=augment):
            found.append(len(x))
    assert found == [5, 5]
    assert not loader_threads()


def test_no_thread_is_left_when_the_loop_is_left():
    with contextlib.closing(batches(X, Y, 5, seed=0, epoch=0)) as found:
        next(found)
        assert loader_threads()
    assert not loader_threads()


def test_no_samples_give_no_batches():
    assert list(batches(X[:0], Y[:0], 5, seed=0, epoch=0)) == []


# --- training ---


def problem(count=60):
    """Points in three classes that a small network separates."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, 3, count)
    x = rng.standard_normal((count, 4)) + 3 * np.eye(3, 4)[y]
    return x.astype(np.float32), y


def network():
    return ly.Sequential(
        ly.Linear(4, 16, seed=1), ly.ReLU(), ly.Dropout(0.3, seed=2), ly.Linear(16, 3, seed=3, init="xavier")
    )


def trainer(run_dir=None, **changes):
    net = network()
    choices = {"schedule": CosineLR(6), "seed": 4, "quiet": True, **changes}
    return Trainer(net, SGD(net, 0.05, 0.9, True, {"*.bias": 0.0, ly.Linear: 1e-3}), run_dir=run_dir, **choices)


def test_training_learns_and_keeps_its_history(capsys):
    train, test = problem(), problem(40)
    one = trainer(quiet=False)
    history = one.fit(train, test, epochs=6, batch_size=8)
    assert [r["epoch"] for r in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert history[-1]["test_accuracy"] == accuracy(one.net, *test) > 0.85
    assert one.optimizer.steps == 6 * 8
    assert history[0]["lr"] == pytest.approx(CosineLR(6)(0.05, 56 / 60))  # the last step's: 56 of 60 images done
    assert all(r["seconds"] > 0 for r in history)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[5].startswith("epoch 6/6  loss 0.")
    assert not loader_threads()


def test_one_epoch_is_the_loop_a_reader_would_write():
    x, y = problem(20)
    one = trainer(schedule=StepLR(1))
    one.net.eval()  # fit trains in training mode, whatever the mode before
    one.fit((x, y), epochs=2, batch_size=6)
    net = network()
    optimizer = SGD(net, 0.05, 0.9, True, {"*.bias": 0.0, ly.Linear: 1e-3})
    for epoch in range(2):
        indices = order(20, 4, epoch)
        for i in range(0, 20, 6):
            chosen = indices[i : i + 6]
            _, loss = cc.ops.softmax_cross_entropy(net.forward(x[chosen]), y[chosen])
            net.zero_grad()
            net.backward(loss.backward()[0])
            optimizer.step(lr=0.05 * 0.1**epoch)
    for name, a in one.net.state_dict().items():
        np.testing.assert_array_equal(a, net.state_dict()[name])


def test_the_recorded_loss_and_accuracy_are_those_of_the_samples():
    x, y = problem(10)
    one = trainer()
    one.net[2].p = 0.0
    one.optimizer.lr = 0.0  # nothing moves: the epoch's averages are those of the network as it stands
    record = one.fit((x, y), (x, y), epochs=1, batch_size=4)[0]
    logits = predict(one.net, x).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert record["train_loss"] == pytest.approx(-np.log(p[range(10), y]).mean(), rel=1e-5)
    assert record["train_accuracy"] == record["test_accuracy"] == (logits.argmax(axis=1) == y).mean()


def test_evaluation_leaves_modes_and_random_keys_alone():
    net = network()
    net[0].eval()
    x, _ = problem()
    before = net[2].key
    with evaluating(net):
        assert not any(layer.training for _, layer in net.walk())
    whole = predict(net, x)
    np.testing.assert_allclose(predict(net, x, batch_size=7), whole, rtol=1e-5, atol=1e-6)
    assert whole.shape == (60, 3) and predict(net, x[:0]).shape == (0, 3)
    assert [layer.training for _, layer in net.walk()] == [True, False, True, True, True]
    assert net[2].key == before


def test_a_loss_that_is_not_finite_stops_the_run():
    x, y = problem()
    x[33] = np.nan
    with pytest.raises(cc.CnncoreError, match="the loss is nan in epoch 1"):
        trainer().fit((x, y), epochs=1)
    assert not loader_threads()


def test_a_failing_augmentation_stops_the_run():
    def augment(x, rng):
        raise RuntimeError("no such shift")

    with pytest.raises(RuntimeError, match="no such shift"):
        trainer().fit(problem(), epochs=1, augment=augment)
    assert not loader_threads()


@pytest.mark.parametrize(
    ("train", "choices", "text"),
    [
        ((X, Y[:-1]), {}, "train must have samples, and as many labels; got 23 and 22"),
        ((X[:0], Y[:0]), {}, "train must have samples"),
        (X, {}, "train must be a pair of NumPy arrays"),
        (problem(), {"epochs": -1}, "epochs must be at least 0"),
        (problem(), {"batch_size": 0}, "batch_size must be at least 1"),
        (problem(), {"resume": True}, "resume needs the Trainer's run_dir"),
        ((problem()[0], problem()[1] + 1), {}, "labels must lie in [0, 3)"),
    ],
)
def test_wrong_use_says_what_is_wrong(train, choices, text):
    with pytest.raises(cc.CnncoreError) as caught:
        trainer().fit(train, **{"epochs": 1, **choices})
    assert text in str(caught.value)


# --- schedules ---


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, lambda lr: np.array(lr), lambda lr: np.int64(1)])
def test_a_schedule_may_give_numpy_scalars(tmp_path, kind):
    def fitted(schedule, run_dir=None):
        return trainer(run_dir, schedule=schedule).fit(problem(), epochs=2, batch_size=8)

    history = fitted(lambda lr, epoch: kind(lr), tmp_path)
    assert all(type(record["lr"]) is float for record in history)
    assert without_times(history) == without_times(fitted(lambda lr, epoch: float(kind(lr))))
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["history"] == history


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), "0.1", -0.1, None, True, np.float32("nan"), np.ones(2)])
def test_a_rate_that_is_none_is_refused_before_the_step(rate):
    one = trainer(schedule=lambda lr, epoch: lr if epoch < 0.25 else rate)
    with pytest.raises(
        cc.CnncoreError, match=r"the schedule's rate at epoch 0\.266667 must be a finite number at least 0"
    ):
        one.fit(problem(), epochs=1, batch_size=8)
    assert one.optimizer.steps == 2 and one.history == []


# --- modes ---


def modes(net):
    return [(layer.training, layer.frozen) for _, layer in net.walk()]


@pytest.mark.parametrize("make", [None, lambda net: Adam(net, weight_decay=0.1)])
def test_frozen_layers_stay_frozen_and_do_not_move(make):
    one = trainer()
    if make:
        one.optimizer = make(one.net)
    one.fit(problem(), epochs=1, batch_size=8)  # momentum and moments are there when the layer is frozen
    one.net[0].freeze()
    before, kept = one.net.state_dict(), modes(one.net)
    history = one.fit(problem(), problem(40), epochs=3, batch_size=8)
    after = one.net.state_dict()
    moved = {name for name in before if (after[name] != before[name]).any()}
    assert moved == {"2.key", "3.weight", "3.bias"} and len(history) == 3
    assert modes(one.net) == kept and one.net[0].frozen


def test_a_layer_in_evaluation_mode_stays_in_it():
    one, other = trainer(), trainer()
    one.net[2].eval()
    other.net[2].p = 0.0
    for each in (one, other):
        each.fit(problem(), problem(40), epochs=2, batch_size=8)
    assert not one.net[2].training and one.net[2].key == (2, 0)  # it never drew
    for name, a in one.net.state_dict().items():
        if name != "2.key":
            np.testing.assert_array_equal(a, other.net.state_dict()[name])


def test_a_network_that_was_evaluated_is_trained_in_training_mode():
    one, other = trainer(), trainer()
    one.net.eval()
    for each in (one, other):
        each.fit(problem(), epochs=1, batch_size=8)
    assert_same_run(one, other)
    part, whole = trainer(), trainer()
    part.net[0].freeze()
    part.net.eval()  # leaves what is frozen frozen
    whole.net[0].freeze()
    for each in (part, whole):
        assert each.net[0].frozen
        each.fit(problem(), epochs=1, batch_size=8)
    assert_same_run(part, whole)


def test_a_frozen_network_stays_as_it_is():
    one = trainer()
    one.net.freeze()
    before = one.net.state_dict()
    one.fit(problem(), problem(40), epochs=1, batch_size=8)
    for name, a in one.net.state_dict().items():
        np.testing.assert_array_equal(a, before[name])
    assert set(modes(one.net)) == {(False, True)}


# --- where a run is saved ---


def test_a_run_dir_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    trainer("~/runs/one").fit(problem(), epochs=1, batch_size=8)
    assert (tmp_path / "runs" / "one" / "checkpoint.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert len(trainer(Path("~/runs/one")).fit(problem(), epochs=2, batch_size=8, resume=True)) == 2


def test_a_file_system_that_cannot_sync_folders_trains_on(tmp_path, monkeypatch):
    true_fsync = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        true_fsync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    assert len(trainer(tmp_path).fit(problem(), epochs=3, batch_size=8)) == 3
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["epoch"] == 3


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path):
    """By one that trains, and by one that finds nothing left to train."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for resume in (False, True):
        for name in ("checkpoint.safetensors", "checkpoint.json"):
            (tmp_path / f".{name}.{ended.pid}.tmp").write_bytes(b"13 MB")
        trainer(tmp_path).fit(problem(), epochs=1, batch_size=8, resume=resume)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.json", "checkpoint.safetensors"]
