"""Training: epochs over shuffled batches, evaluation, checkpoints, and resuming as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import checkpoint, ops
from .backends import select
from .errors import CnncoreError, DivergenceError, FormatError, ShapeError
from .history import History
from .layers.base import Layer, check_state
from .loader import Augment, batches, channels_last
from .ops.geometry import integer
from .ops.random import check_key
from .optim import Optimizer
from .progress import Progress

Data = tuple[np.ndarray, np.ndarray]


@contextlib.contextmanager
def evaluating(net: Layer) -> Iterator[None]:
    """Evaluation mode inside the block; every layer's own mode comes back after it."""
    before = [(layer, layer.training, layer.frozen) for _, layer in net.walk()]
    net.eval()
    try:
        yield
    finally:
        for layer, training, frozen in before:
            layer.training, layer.frozen = training, frozen


def predict(net: Layer, x: np.ndarray, batch_size: int = 250) -> np.ndarray:
    """The network's outputs for all of x in evaluation mode, batch by batch, as one host array."""
    step = integer("predict", "batch_size", batch_size, 1)
    with evaluating(net):
        parts = [select.to_host(net.apply(channels_last(x[i : i + step]))[0]) for i in range(0, max(len(x), 1), step)]
    return np.concatenate(parts)


def accuracy(net: Layer, x: np.ndarray, y: np.ndarray, batch_size: int = 250) -> float:
    """The share of samples whose largest output is at their label."""
    return float(np.mean(predict(net, x, batch_size).argmax(axis=1) == y))


class Trainer:
    """Trains a network with an optimiser.

    schedule: (lr, epoch) -> lr, called before every step with the fraction of epochs done; `None` leaves lr alone.
    loss: (outputs, labels) -> (mean loss, context).
    seed: of the epochs' orders and of augmentation. Dropout draws from keys of its own.
    run_dir: where `checkpoint.safetensors` is written after every epoch, with `checkpoint.json`, the same record for
        people; nothing reads the latter. Without a run_dir nothing is written.

    `history` holds a record per epoch: epoch, train_loss, train_accuracy (both while learning), test_accuracy (None
    without test data), seconds (of training and evaluation), images_per_second (of training), lr (the last step's).
    """

    def __init__(
        self, net: Layer, optimizer: Optimizer, schedule: Callable[[float, float], float] | None = None,
        loss: Callable[..., tuple[Any, Any]] = ops.softmax_cross_entropy, seed: int = 0,
        run_dir: str | Path | None = None, quiet: bool = False,
    ) -> None:  # fmt: skip
        self.net, self.optimizer, self.schedule, self.loss = net, optimizer, schedule, loss
        self.seed = check_key("Trainer", (seed, 0))[0]
        self.path = None if run_dir is None else Path(run_dir) / "checkpoint.safetensors"
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

        `resume` first loads the run_dir's checkpoint, if there is one: the run then goes on bit for bit as if it had
        never stopped, provided that data, settings and machine are the same. Settings are compared.

        Raises ShapeError, DivergenceError (a loss that is no longer finite), CnncoreError (other settings than the
        checkpoint's), FormatError (a checkpoint that is damaged), and whatever `augment` raises.
        """
        x, y = _checked("train", train)
        if test is not None:
            test = _checked("test", test)
        epochs, batch_size = integer("fit", "epochs", epochs, 0), integer("fit", "batch_size", batch_size, 1)
        settings = self._settings(x, batch_size, augment)
        if self.path is not None:
            checkpoint.library()  # where it is missing, say so now, not after the first epoch
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if resume and self.path.exists():
                self._load(self.path, settings)
        elif resume:
            raise CnncoreError("fit: resume needs the Trainer's run_dir")
        with Progress(epochs * len(x), len(self.history) * len(x), self.quiet) as progress:
            while len(self.history) < epochs:
                record = self._epoch(x, y, test, batch_size, augment, f"{len(self.history) + 1}/{epochs}", progress)
                self.history.append(record)
                self._save(settings)
                progress.line(_told(record, epochs))
        return self.history

    def _epoch(
        self, x: np.ndarray, y: np.ndarray, test: Data | None, batch_size: int, augment: Augment | None,
        title: str, progress: Progress,
    ) -> dict[str, Any]:  # fmt: skip
        epoch, start = len(self.history), time.perf_counter()
        done, total_loss, right, lr = 0, 0.0, 0, self.optimizer.lr
        self.net.train()
        shuffled = batches(x, y, batch_size, seed=self.seed, epoch=epoch, augment=augment)
        with contextlib.closing(shuffled):
            for batch, labels in shuffled:
                if self.schedule is not None:
                    lr = self.schedule(self.optimizer.lr, epoch + done / len(x))
                loss, hits = self._step(batch, labels, lr)
                if not math.isfinite(loss):
                    raise DivergenceError(
                        f"fit: the loss is {loss} in epoch {epoch + 1} after {done} images; lower lr?"
                    )
                done, total_loss, right = done + len(batch), total_loss + loss * len(batch), right + hits
                speed = done / (time.perf_counter() - start)
                progress.advance(
                    len(batch),
                    f"epoch {title}  loss {total_loss / done:.3f}  accuracy {right / done:.1%}  {speed:.0f} images/s",
                )
        return {
            "epoch": epoch + 1,
            "train_loss": total_loss / done,
            "train_accuracy": right / done,
            "test_accuracy": None if test is None else accuracy(self.net, *test),
            "seconds": time.perf_counter() - start,
            "images_per_second": speed,
            "lr": lr,
        }

    def _step(self, batch: np.ndarray, labels: np.ndarray, lr: float) -> tuple[float, int]:
        """One step down the gradient; the mean loss and the number of right answers before it."""
        self.net.zero_grad()  # before the forward, whose arrays take the gradients' place
        outputs, context = self.net.apply(batch)
        loss, loss_context = self.loss(outputs, labels)
        context.backward(loss_context.backward()[0], dx=False, last=True)
        self.optimizer.step(lr=lr)
        hits = select.to_host(outputs).argmax(axis=1) == labels
        return float(select.to_host(loss)), int(hits.sum())

    def _settings(self, x: np.ndarray, batch_size: int, augment: Augment | None) -> dict[str, Any]:
        """What must be equal for a resumed run to be the same run."""
        settings = {
            "optimizer": self.optimizer.settings(),
            "schedule": _name(self.schedule),
            "loss": _name(self.loss),
            "augment": _name(augment),
            "seed": self.seed,
            "batch_size": batch_size,
            "train_shape": x.shape,
        }
        return dict(json.loads(json.dumps(settings)))

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

    def _load(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Take over the checkpoint; nothing changes unless all of it fits."""
        arrays, record = checkpoint.load(path)
        history = _checked_history(path, record)
        _check_settings(path, record.get("settings"), settings)
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


def _checked(name: str, data: Any) -> Data:
    """(x, y), as many labels as samples and at least one; what is inside them is the ops' business."""
    fits = isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(a, np.ndarray) and a.ndim for a in data)
    if not fits:
        raise CnncoreError(f"fit: {name} must be a pair of NumPy arrays (x, y), got {type(data).__name__}")
    x, y = data
    if len(x) != len(y) or len(x) == 0:
        raise ShapeError(f"fit: {name} must have samples, and as many labels; got {len(x)} and {len(y)}")
    return x, y


def _checked_history(path: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The record's history, with its epoch and step checked beside it."""
    checkpoint.number(path, "step", record.get("step"), int)
    epoch, history = checkpoint.number(path, "epoch", record.get("epoch"), int), record.get("history")
    if not isinstance(history, list) or len(history) != epoch:
        raise FormatError(f"{path}: history must be a list of {epoch} records, one per epoch")
    names = ("train_loss", "train_accuracy", "test_accuracy", "seconds", "images_per_second", "lr")
    for i, line in enumerate(history):
        if not isinstance(line, dict) or set(line) != {"epoch", *names} or line["epoch"] != i + 1:
            raise FormatError(f"{path}: history[{i}] must hold epoch {i + 1} and {', '.join(names)}")
        for name in names:
            if name != "test_accuracy" or line[name] is not None:
                checkpoint.number(path, f"history[{i}].{name}", line[name], float)
    return history


def _check_settings(path: Path, found: Any, expected: Mapping[str, Any]) -> None:
    if not isinstance(found, dict) or set(found) != set(expected):
        raise FormatError(f"{path}: settings must hold {', '.join(expected)}")
    for name, value in expected.items():
        if found[name] != value:
            raise CnncoreError(f"{path}: cannot resume: it was made with {name}={found[name]}, this run has {value}")


def _name(thing: Any) -> str:
    """A name that every process gives alike: a function's own, or an object's repr unless that holds an address."""
    plain = type(thing).__repr__ is object.__repr__
    return str(getattr(thing, "__qualname__", None) or (type(thing).__qualname__ if plain else repr(thing)))


def _told(record: dict[str, Any], epochs: int) -> str:
    tested = "" if record["test_accuracy"] is None else f"  test {record['test_accuracy']:.2%}"
    return (
        f"epoch {record['epoch']}/{epochs}  loss {record['train_loss']:.4f}  accuracy {record['train_accuracy']:.2%}"
        f"{tested}  lr {record['lr']:.3g}  {record['images_per_second']:.0f} images/s  {record['seconds']:.1f} s"
    )
