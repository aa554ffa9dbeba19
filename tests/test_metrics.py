"""What is measured beside the loss: labels that are none are refused before any work, and no figure is made up."""

import functools
import json

import numpy as np
import pytest

import cnncore as cc
from cnncore import checkpoint, metrics
from cnncore import layers as ly
from cnncore.optim import SGD
from cnncore.train import Trainer, accuracy, predict

COUNT = 30
Y = np.arange(COUNT) % 3
X = np.eye(3, dtype=np.float32)[Y]


def identity_net():
    """Outputs are the inputs: the class of X[i] is Y[i]."""
    net = cc.Sequential(ly.Linear(3, 3, seed=0))
    net[0].weight.value[...] = np.eye(3)
    return net


def trainer(net=None, **choices):
    net = net or identity_net()
    return Trainer(net, SGD(net, lr=0.0), **{"quiet": True, **choices})


class SquaredError:
    """Mean squared error, in NumPy, as a user would write it."""

    def __init__(self, outputs, labels):
        self.difference = (outputs - labels).astype(outputs.dtype)

    def backward(self):
        return (2 * self.difference / np.asarray(self.difference.size, self.difference.dtype),)


def squared_error(outputs, labels):
    if outputs.shape != labels.shape:
        raise ValueError("squared_error: shapes differ")
    context = SquaredError(outputs, labels)
    return np.mean(context.difference**2), context


def rmse(outputs, labels):
    return np.sqrt(np.mean((outputs - labels) ** 2))


WRONG = {
    "a column": (Y[:, None], cc.ShapeError, "labels must have shape (30,), got (30, 1)"),
    "a row": (np.broadcast_to(Y, (COUNT, COUNT)), cc.ShapeError, "labels must have shape (30,), got (30, 30)"),
    "one-hot": (np.eye(3, dtype=int)[Y], cc.ShapeError, "labels must have shape (30,), got (30, 3)"),
    "floats": (Y.astype(float), cc.DTypeError, "labels must be a NumPy array of integers, got float64"),
    "truth values": (Y > 0, cc.DTypeError, "labels must be a NumPy array of integers, got bool"),
    "text": (Y.astype(str), cc.DTypeError, "labels must be a NumPy array of integers, got <U"),
    "a class too many": (np.where(np.arange(COUNT) == 7, 3, Y), cc.CnncoreError, "[0, 3), got 3 at index 7"),
    "from 1": (Y + 1, cc.CnncoreError, "labels must lie in [0, 3), got 3 at index 2"),
    "a negative one": (np.where(np.arange(COUNT) == 9, -1, Y), cc.CnncoreError, "[0, 3), got -1 at index 9"),
}
LOSSES = [
    cc.ops.softmax_cross_entropy,
    functools.partial(functools.partial(cc.ops.softmax_cross_entropy), reduction="mean"),
]


def wrapped(outputs, labels):
    return cc.ops.softmax_cross_entropy(outputs, labels, reduction="mean")


def test_right_labels_are_measured_right():
    record = trainer().fit((X, Y), (X, Y), epochs=1)[0]
    assert record["test_accuracy"] == record["train_accuracy"] == 1.0
    assert accuracy(identity_net(), X, Y) == accuracy(identity_net(), X, Y.astype(np.uint8)) == 1.0
    assert accuracy(identity_net(), X, (Y + (np.arange(COUNT) < 3)) % 3) == 0.9


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_labels_are_refused_before_any_work(case, part, loss):
    labels, kind, text = WRONG[case]
    one = trainer(loss=loss)
    sets = {"train": (X, Y), "test": (X, Y), part: (X, labels)}
    steps = []
    one.optimizer.step = lambda lr: steps.append(lr)
    with pytest.raises(kind) as caught:
        one.fit(sets["train"], sets["test"], epochs=1)
    assert str(caught.value).startswith(f"fit: {part}: ") and text in str(caught.value)
    assert type(caught.value) is kind and not steps and not one.history


@pytest.mark.parametrize("case", WRONG)
def test_accuracy_of_wrong_labels_is_no_figure(case):
    labels, kind, text = WRONG[case]
    for figure in (lambda: accuracy(identity_net(), X, labels), lambda: metrics.accuracy(X, labels)):
        with pytest.raises(kind) as caught:
            figure()
        assert type(caught.value) is kind and text in str(caught.value)


def test_accuracy_needs_classes_and_samples():
    with pytest.raises(cc.ShapeError, match=r"outputs must be \(N, K\)"):
        accuracy(cc.Sequential(), np.zeros((4, 3, 2, 2), np.float32), np.zeros(4, int))
    with pytest.raises(cc.ShapeError, match="at least one sample"):
        accuracy(identity_net(), X[:0], Y[:0])
    with pytest.raises(cc.DTypeError, match="got list"):
        accuracy(identity_net(), X, list(Y))


@pytest.mark.parametrize("part", ["train", "test"])
def test_images_that_do_not_fit_the_network_are_told_before_any_work(part):
    one = trainer()
    sets = {"train": (X, Y), "test": (X, Y), part: (X[:, :2], Y)}
    with pytest.raises(cc.ShapeError, match="x has 2"):
        one.fit(sets["train"], sets["test"], epochs=1)
    assert not one.history and one.optimizer.steps == 0


def test_a_loss_that_wraps_cross_entropy_is_measured_too():
    record = trainer(loss=wrapped).fit((X, Y), (X, Y), epochs=1)[0]
    assert record["test_accuracy"] == record["train_accuracy"] == 1.0
    for metric in (None, rmse):
        with pytest.raises(cc.CnncoreError, match=r"fit: test: labels must lie in \[0, 3\), got 3 at index 5"):
            trainer(loss=wrapped, metric=metric).fit((X, Y), (X, np.where(np.arange(COUNT) == 5, 3, Y)), epochs=1)


# --- tasks that are no classification ---


def regression(width, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((40, 5)).astype(np.float32)
    return x, (x @ rng.standard_normal((5, width)) + 1).astype(np.float32)


@pytest.mark.parametrize("width", [1, 4])
def test_regression_trains_and_claims_no_accuracy(width, capsys, tmp_path):
    x, y = regression(width)
    net = cc.Sequential(ly.Linear(5, width, seed=0))
    one = Trainer(net, SGD(net, 0.1), loss=squared_error, run_dir=tmp_path)
    history = one.fit((x, y), (x[:7], y[:7]), epochs=30, batch_size=8)
    assert history[-1]["train_loss"] < 0.01 * history[0]["train_loss"]
    assert history[-1]["test_loss"] == pytest.approx(float(np.mean((predict(net, x[:7]) - y[:7]) ** 2)), rel=1e-5)
    assert set(history[0]) == {"epoch", "train_loss", "test_loss", "seconds", "images_per_second", "lr"}
    text = capsys.readouterr().out
    assert "accuracy" not in text and "%" not in text and f"test loss {history[-1]['test_loss']:.4g}" in text
    again = cc.Sequential(ly.Linear(5, width, seed=1))
    resumed = Trainer(again, SGD(again, 0.1), loss=squared_error, run_dir=tmp_path, quiet=True)
    assert resumed.fit((x, y), (x[:7], y[:7]), epochs=30, batch_size=8, resume=True) == history


def test_a_metric_is_measured_under_its_name(capsys, tmp_path):
    x, y = regression(2)
    net = cc.Sequential(ly.Linear(5, 2, seed=0))
    one = Trainer(net, SGD(net, lr=0.0), loss=squared_error, metric=rmse, run_dir=tmp_path)
    record = one.fit((x, y), (x, y), epochs=1, batch_size=10)[0]
    right = rmse(predict(net, x), y)
    assert record["test_rmse"] == pytest.approx(right, rel=1e-6)
    parts = [rmse(predict(net, x[i]), y[i]) for i in np.split(cc.loader.order(40, 0, 0), 4)]
    assert record["train_rmse"] == pytest.approx(np.mean(parts), rel=1e-6)
    assert f"rmse {record['train_rmse']:.4g}  test {record['test_rmse']:.4g}" in capsys.readouterr().out
    assert json.loads((tmp_path / "checkpoint.json").read_text())["history"][0]["test_rmse"] == record["test_rmse"]
    other = Trainer(net, SGD(net, lr=0.0), loss=squared_error, run_dir=tmp_path, quiet=True)
    with pytest.raises(cc.CnncoreError, match=r"metric: rmse \[code \w+\] in the checkpoint, None now"):
        other.fit((x, y), (x, y), epochs=1, batch_size=10, resume=True)


def test_accuracy_may_be_asked_for_with_any_loss():
    def hinge(outputs, labels):
        margins = np.maximum(0, 1 + outputs - outputs[np.arange(len(labels)), labels][:, None])
        return np.mean(margins), SquaredError(outputs, outputs)

    assert "train_accuracy" not in trainer(loss=hinge).fit((X, Y), epochs=1)[0]
    assert trainer(loss=hinge, metric=metrics.accuracy).fit((X, Y), (X, Y), epochs=1)[0]["test_accuracy"] == 1.0
    with pytest.raises(cc.CnncoreError, match=r"fit: test: labels must lie in \[0, 3\)"):
        trainer(loss=hinge, metric=metrics.accuracy).fit((X, Y), (X, Y - 1), epochs=1)


def test_a_figure_that_is_not_finite_is_none(capsys, tmp_path):
    def undefined(outputs, labels):
        return float("nan")

    one = trainer(metric=undefined, quiet=False, run_dir=tmp_path)
    record = one.fit((X, Y), (X, Y), epochs=1)[0]
    assert record["train_undefined"] is record["test_undefined"] is None
    assert "undefined -  test -" in capsys.readouterr().out
    assert trainer(metric=undefined, run_dir=tmp_path).fit((X, Y), (X, Y), epochs=1, resume=True) == [record]
    bad = X.copy()
    bad[4] = np.inf
    with np.errstate(all="ignore"):
        assert trainer(run_dir=tmp_path).fit((X, Y), (bad, Y), epochs=1)[0]["test_loss"] is None


def test_losses_may_be_negative(tmp_path):
    """As a log-likelihood is: such a checkpoint is no damaged one."""

    def likelihood(outputs, labels):
        return -5.0 + np.mean(outputs) * 0, SquaredError(outputs, outputs)

    history = trainer(loss=likelihood, run_dir=tmp_path).fit((X, Y), (X, Y), epochs=1)
    assert history[0]["train_loss"] == history[0]["test_loss"] == -5.0
    _, record = checkpoint.load(tmp_path / "checkpoint.safetensors")
    assert record["history"] == history
    assert trainer(loss=likelihood, run_dir=tmp_path).fit((X, Y), (X, Y), epochs=1, resume=True) == history


@pytest.mark.parametrize("metric", ["accuracy", lambda outputs, labels: 1.0, functools.partial(rmse), 3])
def test_a_metric_needs_a_name(metric):
    with pytest.raises(cc.CnncoreError, match="metric must be a function"):
        trainer(metric=metric)


@pytest.mark.parametrize("figure", [None, "1", True, 1j, np.ones(3)])
def test_a_metric_gives_a_number(figure):
    def metric(outputs, labels):
        return figure

    with pytest.raises(cc.CnncoreError, match="fit: metric metric must give a number"):
        trainer(metric=metric).fit((X, Y), epochs=1)


def test_a_loss_for_every_sample_is_refused():
    def each(outputs, labels):
        return np.zeros(len(outputs)), None

    one = trainer(loss=each)
    with pytest.raises(cc.ShapeError, match=r"fit: the loss must be one number, got shape \(2,\)"):
        one.fit((X, Y), epochs=1, batch_size=10)
    assert one.history == []
