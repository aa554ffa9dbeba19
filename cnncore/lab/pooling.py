"""The paper's catalogue of pooling (section 2): one small network learns the digits with each regime in turn."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..layers import (
    AvgPool2d,
    Conv2d,
    Dropout,
    EntropyPool2d,
    ExpectationPool2d,
    Flatten,
    GaussianLPPool2d,
    Layer,
    Linear,
    LPPool2d,
    MaxPool2d,
    ReLU,
    Sequential,
    StochasticPool2d,
    seeds,
)  # fmt: skip
from ..ops.geometry import integer
from ..tables import print_table
from .trials import Training, Trial
from .trials import run as run_trials

TRAINING = {False: Training(8000, 2000, epochs=5), True: Training(1000, 500, epochs=2)}  # by --quick

WINDOW: dict[str, Any] = {"kernel_size": 3, "stride": 2, "ceil_mode": True}  # overlapping, so that the regime matters

# What `pool=` means: the layer, from the seed of its draws.
REGIMES: dict[str, Callable[[int], Layer]] = {
    "max": lambda seed: MaxPool2d(**WINDOW),
    "avg": lambda seed: AvgPool2d(**WINDOW),
    "lp 2": lambda seed: LPPool2d(2, **WINDOW, normalize=True),
    "lp 4": lambda seed: LPPool2d(4, **WINDOW, normalize=True),
    "gaussian lp 4": lambda seed: GaussianLPPool2d(**WINDOW, p=4, sigma=1.0),
    "stochastic": lambda seed: StochasticPool2d(**WINDOW, seed=seed),
    "expectation": lambda seed: ExpectationPool2d(**WINDOW),
    "entropy": lambda seed: EntropyPool2d(**WINDOW),
}


def small(pool: str, dropout: float, seed: int) -> Sequential:
    """(N, 1, 28, 28) digits to (N, 10): 5x5 convolutions of 16 and 32 maps, each with ReLU and pooling; 128 hidden."""
    s = seeds(seed)
    return Sequential(
        Conv2d(1, 16, 5, padding=2, seed=next(s)),
        ReLU(),
        REGIMES[pool](next(s)),
        Conv2d(16, 32, 5, padding=2, seed=next(s)),
        ReLU(),
        REGIMES[pool](next(s)),
        Flatten(),
        Linear(32 * 7 * 7, 128, seed=next(s)),
        ReLU(),
        Dropout(dropout, seed=next(s)),
        Linear(128, 10, seed=next(s)),
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        default=cores,
        help="processes that train side by side (default: one a core)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    training = TRAINING[args.quick]
    trials = {
        name: [
            Trial((("pool", name), ("dropout", 0.0)), args.seed + i, training, args.backend) for i in range(args.seeds)
        ]
        for name in REGIMES
    }
    every = [trial for group in zip(*trials.values(), strict=True) for trial in group]
    workers = integer("lab", "workers", args.workers, 1)
    records = run_trials(small, every, args.run_dir, workers, quiet=args.json)
    rows = {
        name: [100 * len(records[trial]["wrong"]) / training.tests for trial in group] for name, group in trials.items()
    }
    return {"test_error": rows}


def show(result: dict[str, Any], run_dir: Path) -> None:
    rows = [[name, f"{np.mean(errors):.2f}"] for name, errors in result["test_error"].items()]
    print_table("errors on the test digits, %", ["pooling", "test error"], rows)
