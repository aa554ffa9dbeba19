"""`cnncore train`: a model on the embedded digits or on full MNIST, with everything about the run saved."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import data, models, plots
from ..backends import select
from ..backends.device import to_host
from ..backends.select import use_backend
from ..checkpoint import write_atomically
from ..data.mnist import CLASSES, Digits
from ..layers import Dropout, Layer
from ..loader import Augment
from ..ops.geometry import integer
from ..optim import SGD, Adam, CosineLR, Optimizer
from ..paths import user_path
from ..tables import print_table
from ..train import Trainer, predict
from .common import add_command, environment, print_json, require, tell_missing

RATES = {"sgd": 0.03, "adam": 0.001}


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "train",
        "Train a model on handwritten digits; save checkpoint, metrics and pictures.",
        "cnncore train lenet --pool avg --epochs 4 --seed 1",
        backend="who computes (by default the fastest that is available)",
    )
    parser.add_argument("model", metavar="MODEL", choices=models.DIGITS, help=f"one of: {', '.join(models.DIGITS)}")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The settings of a training run."""

    def add(flag: str, default: Any, text: str, **more: Any) -> None:
        shown = "" if default is None else f" (default: {default})"
        parser.add_argument(flag, default=default, help=text + shown, **more)

    add("--epochs", 7, "passes over the training images", type=int)
    add("--batch-size", 32, "images in a step", type=int)
    add("--seed", 0, "of initial weights, order, shifts and dropout", type=int)
    add("--optimizer", "sgd", "SGD with momentum 0.9, or Adam", choices=sorted(RATES))
    add("--lr", None, "first learning rate, to fall along a cosine (default: 0.03 sgd, 0.001 adam)", type=float)
    add("--weight-decay", 5e-4, "of weights, not of biases", type=float)
    add("--pool", None, "max, avg, lp4, stochastic, max+avg, ... (default: the model's own)")
    add("--dropout", None, "share of hidden units dropped (default: the model's own)", type=float)
    add("--shift", 2, "training images are shifted by up to this many pixels", type=int)
    add("--images", None, "train on the first so many images only", type=int, metavar="N")
    add("--data", None, "folder with full MNIST's four files instead of the embedded 10,000 digits", metavar="DIR")
    add("--run-dir", None, "where to save (default: runs/ and the model's name)", metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --run-dir, if there is one")


def run(args: argparse.Namespace) -> int:
    run_dir = user_path(args.run_dir or f"runs/{args.model}")
    metrics = train(prepare(args, run_dir), args, run_dir)
    if args.json:
        print_json(metrics)
    else:
        print_result(metrics, run_dir)
    return 0


@dataclass(frozen=True)
class Prepared:
    """All that the options name, made and checked before any work."""

    trainer: Trainer
    train: Digits
    test: Digits
    epochs: int
    augment: Augment


def prepare(args: argparse.Namespace, run_dir: Path) -> Prepared:
    """Make what a run needs, and say what is wrong with the options or missing, before any work."""
    require("safetensors", "train")
    select.load(args.backend or "numpy")  # raises where a backend cannot be had
    epochs = integer("train", "epochs", args.epochs, 1)
    integer("train", "batch_size", args.batch_size, 1)
    (x, y), test = data.mnist(args.data) if args.data else data.mnist10k()
    count = len(x) if args.images is None else integer("train", "images", args.images, 1)
    own = {name: value for name in ("pool", "dropout") if (value := getattr(args, name)) is not None}
    net = getattr(models, args.model)(**models.DIGITS[args.model], **own, seed=args.seed)
    trainer = Trainer(net, optimizer(net, args), CosineLR(epochs), seed=args.seed, run_dir=run_dir, quiet=args.json)
    tell_missing(args)
    return Prepared(trainer, (x[:count], y[:count]), test, epochs, data.shift(args.shift))


def train(prepared: Prepared, args: argparse.Namespace, run_dir: Path) -> dict[str, Any]:
    """Train as the options say, save everything in run_dir, and return what metrics.json holds."""
    trainer, test = prepared.trainer, prepared.test
    net = trainer.net
    with use_backend(args.backend) if args.backend else contextlib.nullcontext():
        trainer.fit(
            prepared.train, test, epochs=prepared.epochs, batch_size=args.batch_size, augment=prepared.augment,
            resume=args.resume,
        )  # fmt: skip
        confusion = confusion_table(net, test)
        metrics = {
            "test_accuracy": float(np.trace(confusion) / max(confusion.sum(), 1)),
            "seconds": sum(epoch["seconds"] for epoch in trainer.history),
            "settings": settings(args, trainer, len(prepared.train[0])),
            "history": trainer.history,
            "confusion": confusion.tolist(),
            "pictures": save_pictures(run_dir, net, trainer.history, harder(net, args.shift)),
        }
    write_atomically(run_dir / "metrics.json", json.dumps(metrics, indent=2).encode())
    return metrics


def optimizer(net: Layer, args: argparse.Namespace) -> Optimizer:
    rate = RATES[args.optimizer] if args.lr is None else args.lr
    decay: Mapping[str | type[Layer], float] = {"*.bias": 0.0, "*": args.weight_decay}
    if args.optimizer == "adam":
        return Adam(net, lr=rate, weight_decay=decay)
    return SGD(net, lr=rate, momentum=0.9, weight_decay=decay)


def settings(args: argparse.Namespace, trainer: Trainer, images: int) -> dict[str, Any]:
    """Everything that decided the outcome."""
    chosen = {key: value for key, value in vars(args).items() if key not in ("command", "json", "debug", "quick")}
    return {
        **chosen,
        "images": images,
        "lr": trainer.optimizer.lr,
        "schedule": repr(trainer.schedule),
        **environment(),
    }


def confusion_table(net: Layer, test: Digits) -> np.ndarray:
    """counts[true, said] over the test images."""
    said = predict(net, test[0]).argmax(axis=1)
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    np.add.at(counts, (test[1], said), 1)
    return counts


def harder(net: Layer, shift: int) -> str:
    """The name of the training errors: what a training image goes through and a test image does not."""
    drops = any(isinstance(layer, Dropout) and layer.p > 0 for _, layer in net.walk())
    with_ = " and ".join(name for name, used in (("shifts", shift > 0), ("dropout", drops)) if used)
    return f"training, with {with_}" if with_ else "training"


def save_pictures(run_dir: Path, net: Layer, history: list[dict[str, Any]], training: str) -> list[str]:
    """Save the pictures of a run and return their names: none where matplotlib is missing."""
    if plots.missing() or not history:
        return []
    errors = [[100 * (1 - epoch[part]) for epoch in history] for part in ("train_accuracy", "test_accuracy")]
    plots.learning_curve(run_dir / "learning_curve.png", *errors, training=training)
    first = next(p.value for p in net.parameters().values() if p.value.ndim == 4)
    plots.filters(run_dir / "filters.png", to_host(first))
    return ["learning_curve.png", "filters.png"]


def print_result(metrics: dict[str, Any], run_dir: Path) -> None:
    """Accuracy, who was taken for whom, and what was saved."""
    confusion = np.array(metrics["confusion"])
    rows = [
        [f"{digit}", *(str(n) if n else "." for n in line), f"{100 * line[digit] / max(line.sum(), 1):.1f} %"]
        for digit, line in enumerate(confusion)
    ]
    print_table("test digits (rows) and what they were taken for", ["", *map(str, range(CLASSES)), "right"], rows)
    right, count = int(np.trace(confusion)), int(confusion.sum())
    print(f"test accuracy {metrics['test_accuracy']:.2%} ({right} of {count}), {metrics['seconds']:.1f} s of training")
    print(f"saved in {run_dir}: {', '.join(['checkpoint.safetensors', 'metrics.json', *metrics['pictures']])}")
