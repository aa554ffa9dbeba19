"""Training: epochs over shuffled batches, evaluation, checkpoints, and resuming as if nothing had happened."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import checkpoint, identity, metrics, ops
from .backends.device import to_host
from .errors import CnncoreError, DivergenceError, FormatError, ShapeError
from .history import History
from .layers.base import Layer
from .layers.parameter import check_state
from .loader import Augment, batches, channels_last
from .metrics import Metric
from .ops.checks import check_key
from .ops.geometry import integer
from .ops.recording import recording
from .ops.scalars import finite
from .optim import Optimizer
from .paths import user_path
from .progress import Progress

Data = tuple[np.ndarray, np.ndarray]


@contextlib.contextmanager
def evaluating(net: Layer) -> Iterator[None]:
    """Evaluation mode inside the block; every layer's own mode comes back after it."""
    with _modes_kept(net):
        net.eval()
        yield


@contextlib.contextmanager
def learning(net: Layer) -> Iterator[None]:
    """Every layer's own mode inside the block; where none is in training mode, all are but the frozen ones.

    A layer that is frozen, or alone in evaluation mode, was put there on purpose; a whole network was only evaluated.
    """
    with _modes_kept(net):
        layers = [layer for _, layer in net.walk()]
        if not any(layer.training for layer in layers):
            for layer in layers:
                layer.training = not layer.frozen
        yield


@contextlib.contextmanager
def _modes_kept(net: Layer) -> Iterator[None]:
    before = [(layer, layer.training, layer.frozen) for _, layer in net.walk()]
    try:
        yield
    finally:
        for layer, training, frozen in before:
            layer.training, layer.frozen = training, frozen


def predict(net: Layer, x: np.ndarray, batch_size: int = 250) -> np.ndarray:
    """The network's outputs for all of x in evaluation mode, batch by batch, as one host array."""
    step = integer("predict", "batch_size", batch_size, 1)
    with evaluating(net):
        parts = [to_host(net.apply(channels_last(x[i : i + step]))[0]) for i in range(0, max(len(x), 1), step)]
    return np.concatenate(parts)


def accuracy(net: Layer, x: np.ndarray, y: np.ndarray, batch_size: int = 250) -> float:
    """The share of samples whose largest output is at their label.

    Raises ShapeError, DTypeError, CnncoreError unless y holds a class for each of at least one sample: integers (N,)
    from 0 to below the number of outputs.
    """
    metrics.check_labels("accuracy", (len(x), *predict(net, x[:1]).shape[1:]), y)  # before the work
    return metrics.accuracy(predict(net, x, batch_size), y)


@dataclass(frozen=True)
class _Run:
    """What one call of `fit` trains with."""

    train: Data
    test: Data | None
    epochs: int
    batch_size: int
    augment: Augment | None
    metric: Metric | None


class Trainer:
    """Trains a network with an optimiser.

    schedule: (lr, epoch) -> lr, called before every step with the fraction of epochs done; `None` leaves lr alone.
    loss: (outputs, labels) -> (mean loss, context).
    metric: (outputs, labels) -> number, a function with a name, called with arrays on the host. By default accuracy
        (`metrics.accuracy`) where the loss calls `ops.softmax_cross_entropy`, and none for another loss.
    seed: of the epochs' orders and of augmentation. Dropout draws from keys of its own.
    run_dir: where `checkpoint.safetensors` is written after every epoch, with `checkpoint.json`, the same record for
        people; nothing reads the latter. Without a run_dir nothing is written.

    `history` holds a record per epoch: epoch, train_loss and train_<metric> (means over the batches, while learning),
    test_loss and test_<metric> (of all test samples; None without test data), seconds (of training and evaluation),
    images_per_second (of training), lr (the last step's). The metric's name is "accuracy" by default; without a metric
    its two are left out. A figure that is not finite is None.
    """

    def __init__(
        self, net: Layer, optimizer: Optimizer, schedule: Callable[[float, float], float] | None = None,
        loss: Callable[..., tuple[Any, Any]] = ops.softmax_cross_entropy, seed: int = 0,
        run_dir: str | Path | None = None, quiet: bool = False, metric: Metric | None = None,
    ) -> None:  # fmt: skip
        self.net, self.optimizer, self.schedule, self.loss = net, optimizer, schedule, loss
        self.metric = metric
        if metric is not None:
            metrics.name_of(metric)
        self.seed = check_key("Trainer", (seed, 0))[0]
        self.path = None if run_dir is None else user_path(run_dir) / "checkpoint.safetensors"
        self.quiet = quiet
        self.history: list[dict[str, Any]] = History()

    def __repr__(self) -> str:
        return (
            f"Trainer({type(self.net).__name__}, {self.optimizer!r}, seed={self.seed}, {len(self.history)} epochs done)"
        )

    def fit(
        self, train: Data, test: Data | None = None, *, epochs: int, batch_size: int = 64,
        augment: Augment | None = None, resume: bool = False,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Train until `epochs` epochs are done in all, and return the history.

        Layers keep the mode that they are in: what is frozen or in evaluation mode stays so. A network that is in
        evaluation mode as a whole is trained in training mode.

        Before anything is learnt the first two samples of `train` and of `test` go through network and loss, and where
        accuracy is measured all labels are checked.

        `resume` first loads the run_dir's checkpoint, if there is one: the run then goes on bit for bit as if it had
        never stopped. A checkpoint of another run is refused, by name of what differs: the network's layers with their
        arguments, modes and parameters' shapes; a digest of the data; augmentation, schedule and loss; the optimiser's
        settings; metric, seed and batch size. Backend and machine are not compared, though bits depend on them.

        A function is identified by its name, code, defaults and closure, and by the constants that it reads of its
        module; other functions that it calls are not looked at. A partial is identified by its arguments too, an object
        by its repr or attributes, a layer of your own by `describe` or by its attributes without "_" in front. What
        cannot be identified so (a generator in a closure, say) gives a warning before the run and an error when the run
        is resumed: give the object a repr that tells its arguments.

        Raises ShapeError, DTypeError, DivergenceError (a loss that is no longer finite), CnncoreError (labels out of
        range, a schedule's rate that is no finite number of at least 0, a checkpoint of another run), FormatError (a
        checkpoint that is damaged), and whatever `augment`, `loss` and `metric` raise.
        """
        _check_pair("train", train)
        if test is not None:
            _check_pair("test", test)
        epochs, batch_size = integer("fit", "epochs", epochs, 0), integer("fit", "batch_size", batch_size, 1)
        if self.path is not None:
            checkpoint.library()  # where it is missing, say so now, not after the first epoch
        elif resume:
            raise CnncoreError("fit: resume needs the Trainer's run_dir")
        metric = self._checked_metric("train", *train)
        if test is not None:
            self._checked_metric("test", *test)
        run = _Run((train[0], train[1]), test, epochs, batch_size, augment, metric)
        count = len(run.train[0])
        with learning(self.net):
            settings = self._begin(run, resume)
            with Progress(epochs * count, len(self.history) * count, self.quiet) as progress:
                while len(self.history) < epochs:
                    record = self._epoch(run, progress)
                    self.history.append(record)
                    self._save(settings)
                    progress.line(_told(record, run))
        return self.history

    def _checked_metric(self, name: str, x: np.ndarray, y: np.ndarray) -> Metric | None:
        """The metric to measure, after two samples went through network and loss and the labels were checked."""
        outputs = predict(self.net, x[:2])
        metric, plain_loss = self.metric, self.loss
        while isinstance(plain_loss, functools.partial):
            plain_loss = plain_loss.func
        every = (len(x), *outputs.shape[1:])
        if metric is metrics.accuracy or plain_loss is ops.softmax_cross_entropy:
            metrics.check_labels(f"fit: {name}", every, y)
        with recording() as calls, np.errstate(all="ignore"):
            try:
                loss, _ = self.loss(outputs, y[:2])
            except CnncoreError as error:
                error.add_note(f"in fit: the loss of the first samples of {name}")
                raise
        _one_number(loss)
        if any(call.name == "softmax_cross_entropy" for call in calls):
            metrics.check_labels(f"fit: {name}", every, y)
            return metric or metrics.accuracy
        return metric

    def _begin(self, run: _Run, resume: bool) -> dict[str, Any]:
        """Make the run_dir, load its checkpoint to resume, and return what identifies this run."""
        if self.path is None:
            return {}
        settings, unknown = self._settings(run)
        loads = resume and self.path.exists()
        if unknown:
            text = f"nothing tells this run from others: {'; '.join(unknown)} (see Trainer.fit)"
            if loads:
                raise CnncoreError(f"{self.path}: cannot resume: {text}")
            warnings.warn(f"fit: this run cannot be resumed: {text}", stacklevel=3)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for path in (self.path, self.path.with_suffix(".json")):
            checkpoint.remove_leftovers(path)
        if loads:
            self._load(self.path, settings, run.metric)
        return settings

    def _epoch(self, run: _Run, progress: Progress) -> dict[str, Any]:
        epoch, start = len(self.history), time.perf_counter()
        (x, y), metric = run.train, run.metric
        done, total_loss, total, lr = 0, 0.0, 0.0, self.optimizer.lr
        shuffled = batches(x, y, run.batch_size, seed=self.seed, epoch=epoch, augment=run.augment)
        with contextlib.closing(shuffled):
            for batch, labels in shuffled:
                lr = self._rate(epoch + done / len(x))
                loss, figure = self._step(batch, labels, lr, metric)
                if not math.isfinite(loss):
                    raise DivergenceError(
                        f"fit: the loss is {loss} in epoch {epoch + 1} after {done} images; lower lr?"
                    )
                done += len(batch)
                total_loss, total = total_loss + loss * len(batch), total + figure * len(batch)
                speed = done / (time.perf_counter() - start)
                measured = f"  {metrics.name_of(metric)} {metrics.shown(metric, total / done)}" if metric else ""
                progress.advance(
                    len(batch),
                    f"epoch {epoch + 1}/{run.epochs}  loss {total_loss / done:.3f}{measured}  {speed:.0f} images/s",
                )
        tested = self._test(run)
        return {
            "epoch": epoch + 1,
            "train_loss": total_loss / done,
            **({f"train_{metrics.name_of(metric)}": _finite(total / done)} if metric else {}),
            **tested,
            "seconds": time.perf_counter() - start,
            "images_per_second": speed,
            "lr": lr,
        }

    def _rate(self, epoch: float) -> float:
        """The rate of a step, after `epoch` epochs."""
        if self.schedule is None:
            return finite("fit", "the optimizer's lr", self.optimizer.lr, 0)
        return finite("fit", f"the schedule's rate at epoch {epoch:g}", self.schedule(self.optimizer.lr, epoch), 0)

    def _step(self, batch: np.ndarray, labels: np.ndarray, lr: float, metric: Metric | None) -> tuple[float, float]:
        """One step down the gradient; the mean loss and the metric's figure (0 without a metric) before it."""
        self.net.zero_grad()  # before the forward, whose arrays take the gradients' place
        outputs, context = self.net.apply(batch)
        loss, loss_context = self.loss(outputs, labels)
        context.backward(loss_context.backward()[0], dx=False, last=True)
        self.optimizer.step(lr=lr)
        figure = metrics.measure(metric, to_host(outputs), labels) if metric else 0.0
        return _one_number(loss), figure

    def _test(self, run: _Run) -> dict[str, float | None]:
        """test_loss, and the metric under its name: of all test samples."""
        found: dict[str, float | None] = {"test_loss": None}
        if run.metric:
            found[f"test_{metrics.name_of(run.metric)}"] = None
        if run.test is not None:
            outputs, labels = predict(self.net, run.test[0]), run.test[1]
            figures = [_one_number(self.loss(outputs, labels)[0])]
            figures += [metrics.measure(run.metric, outputs, labels)] if run.metric else []
            found = {name: _finite(figure) for name, figure in zip(found, figures, strict=True)}
        return found

    def _settings(self, run: _Run) -> tuple[dict[str, Any], list[str]]:
        """What must be equal for a resumed run to be the same run, and what of it cannot be identified."""
        parts: dict[str, Callable[[], Any]] = {
            "optimizer": self.optimizer.settings,
            "schedule": lambda: identity.identified(self.schedule),
            "loss": lambda: identity.identified(self.loss),
            "augmentation": lambda: identity.identified(run.augment),
            "metric": lambda: run.metric and identity.identified(run.metric),
            "seed": lambda: self.seed,
            "batch_size": lambda: run.batch_size,
            "network": lambda: identity.of_network(self.net),
            "train_data": lambda: identity.of_data(run.train),
            "test_data": lambda: identity.of_data(run.test),
        }
        settings: dict[str, Any] = {}
        unknown = []
        for name, tell in parts.items():
            try:
                settings[name] = json.loads(json.dumps(tell(), default=identity.identified))  # as it is read again
            except identity.UnidentifiedError as error:
                settings[name] = "unidentified"
                unknown.append(f"{name}: {error}")
        return settings, unknown

    def _save(self, settings: Mapping[str, Any]) -> None:
        """Write the checkpoint: network, optimiser and history, at the end of an epoch."""
        if self.path is None:
            return
        arrays = {f"net.{name}": a for name, a in self.net.state_dict().items()}
        arrays |= {f"optimizer.{name}": a for name, a in self.optimizer.state_dict().items()}
        record = {
            "epoch": len(self.history),
            "step": self.optimizer.steps,
            "settings": settings,
            "history": self.history,
        }
        checkpoint.save(self.path, arrays, record)
        text = json.dumps({"arrays": self.path.name, **record}, indent=2)
        checkpoint.write_atomically(self.path.with_suffix(".json"), text.encode())

    def _load(self, path: Path, settings: Mapping[str, Any], metric: Metric | None) -> None:
        """Take over the checkpoint; nothing changes unless all of it fits."""
        arrays, record = checkpoint.load(path)
        _check_settings(path, record.get("settings"), settings)
        history = _checked_history(path, record, metric)
        parts: dict[str, dict[str, np.ndarray]] = {"net": {}, "optimizer": {}}
        for name, a in arrays.items():
            owner, _, inside = name.partition(".")
            if owner not in parts:
                raise FormatError(f"{path}: unknown array {name!r}")
            parts[owner][inside] = a
        try:
            check_state("net", self.net.state_dict(), parts["net"])
            check_state("optimizer", self.optimizer.state_dict(), parts["optimizer"])
        except CnncoreError as error:
            raise FormatError(f"{path}: {error}") from None
        if record["step"] != int(parts["optimizer"]["steps"]):
            raise FormatError(f"{path}: step is {record['step']}, optimizer.steps {int(parts['optimizer']['steps'])}")
        self.net.load_state_dict(parts["net"])
        self.optimizer.load_state_dict(parts["optimizer"])
        self.history = History(history)


def _check_pair(name: str, data: Any) -> None:
    """Raise unless data is (x, y), with as many labels as samples and at least one."""
    fits = isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(a, np.ndarray) and a.ndim for a in data)
    if not fits:
        raise CnncoreError(f"fit: {name} must be a pair of NumPy arrays (x, y), got {type(data).__name__}")
    x, y = data
    if len(x) != len(y) or len(x) == 0:
        raise ShapeError(f"fit: {name} must have samples, and as many labels; got {len(x)} and {len(y)}")


def _checked_history(path: Path, record: dict[str, Any], metric: Metric | None) -> list[dict[str, Any]]:
    """The record's history, with its epoch and step checked beside it."""
    checkpoint.number(path, "step", record.get("step"), int)
    epoch, history = checkpoint.number(path, "epoch", record.get("epoch"), int), record.get("history")
    if not isinstance(history, list) or len(history) != epoch:
        raise FormatError(f"{path}: history must be a list of {epoch} records, one per epoch")
    measures = ["loss", *([metrics.name_of(metric)] if metric else [])]
    figures = [f"{part}_{name}" for part in ("train", "test") for name in measures]
    rates = ("seconds", "images_per_second", "lr")
    for i, line in enumerate(history):
        if not isinstance(line, dict) or set(line) != {"epoch", *figures, *rates} or line["epoch"] != i + 1:
            raise FormatError(f"{path}: history[{i}] must hold epoch {i + 1} and {', '.join((*figures, *rates))}")
        for name in rates:
            checkpoint.number(path, f"history[{i}].{name}", line[name], float)
        for name in figures:
            absent = line[name] is None and name != "train_loss"
            checkpoint.number(path, f"history[{i}].{name}", 0 if absent else line[name], float, least=-(2**63))
    return history


def _check_settings(path: Path, found: Any, expected: Mapping[str, Any]) -> None:
    if not isinstance(found, dict) or set(found) != set(expected):
        raise FormatError(f"{path}: settings must hold {', '.join(expected)} (did an older cnncore write it?)")
    if different := identity.differences(found, expected):
        raise CnncoreError(f"{path}: cannot resume another run: {'; '.join(different)}")


def _one_number(loss: Any) -> float:
    found = to_host(loss)
    if found.size != 1:
        raise ShapeError(f"fit: the loss must be one number, got shape {found.shape}")
    return float(found.item())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _told(record: dict[str, Any], run: _Run) -> str:
    name = metrics.name_of(run.metric) if run.metric else "loss"
    shown = {part: metrics.shown(run.metric, record[f"{part}_{name}"]) for part in ("train", "test")}
    return "  ".join(
        [
            f"epoch {record['epoch']}/{run.epochs}",
            f"loss {record['train_loss']:.4f}",
            *([f"{name} {shown['train']}"] if run.metric else []),
            *([f"test {'' if run.metric else 'loss '}{shown['test']}"] if run.test else []),
            f"lr {record['lr']:.3g}",
            f"{record['images_per_second']:.0f} images/s",
            f"{record['seconds']:.1f} s",
        ]
    )
