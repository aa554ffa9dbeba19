"""The paper's catalogue of pooling (section 2): one small network learns the digits with each regime in turn."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import plots
from ..ops.geometry import integer
from ..tables import print_table
from .pooling_claims import GROUPS, Claim, Group
from .pooling_nets import Net, build
from .statistics import estimate, verdict
from .trials import Record, Training, Trial
from .trials import run as run_trials

TRAINING = {False: Training(8000, 2000, epochs=5), True: Training(1000, 500, epochs=2)}  # by --quick; lr: see Group
GOAL = 0.98  # of the test digits right: "epochs to 98 %"


def add_options(parser: argparse.ArgumentParser) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--workers", type=int, metavar="N", default=cores, help="processes that train (default: one a core)"
    )
    parser.add_argument("--only", choices=GROUPS, help="one group of networks (default: all)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    training, workers = TRAINING[args.quick], integer("lab", "workers", args.workers, 1)
    groups = {name: group for name, group in GROUPS.items() if args.only in (None, name)}
    seeds = range(args.seed, args.seed + args.seeds)

    def trial(group: Group, net: Net, seed: int) -> Trial:
        return Trial(tuple(net.items()), seed, replace(training, lr=group.lr), args.backend)

    # Seeds outermost: a run that is stopped half-way has seen every network.
    trials = [trial(group, net, seed) for seed in seeds for group in groups.values() for net in group.nets.values()]
    found = run_trials(build, trials, args.run_dir, workers, quiet=args.json)

    def records(group: Group, net: Net) -> list[Record]:
        return [found[trial(group, net, seed)] for seed in seeds]

    tables = {
        name: summary(group, {label: records(group, net) for label, net in group.nets.items()}, training.tests)
        for name, group in groups.items()
    }
    return {"training": asdict(training), "groups": tables, "pictures": save_pictures(args.run_dir, tables)}


# --- what a training tells, in percent --------------------------------------------------------------------------------


def errors(records: Sequence[Record], tests: int) -> np.ndarray:
    """(seeds, tests): 100 where a test digit was taken for another, else 0."""
    values = np.zeros((len(records), tests))
    for line, record in zip(values, records, strict=True):
        line[record["wrong"]] = 100
    return values


def overfitting(records: Sequence[Record], tests: int) -> np.ndarray:
    """(seeds,): test error - training error."""
    return errors(records, tests).mean(axis=1) - 100 * np.array([record["train_error"] for record in records])


def first_epoch(records: Sequence[Record], tests: int) -> np.ndarray:
    """(seeds,): test error after one epoch."""
    return 100 * (1 - np.array([record["history"][0]["test_accuracy"] for record in records]))


MEASURES: dict[str, Callable[[Sequence[Record], int], np.ndarray]] = {
    "test error": errors,
    "overfitting": overfitting,
    "error after one epoch": first_epoch,
}


def summary(group: Group, records: Mapping[str, Sequence[Record]], tests: int) -> dict[str, Any]:
    """A group's table and verdicts, ready for JSON."""
    return {
        "title": group.title,
        "rows": [{"net": label, **row(found, tests)} for label, found in records.items()],
        "claims": [judged(claim, records, tests) for claim in group.claims],
    }


def row(records: Sequence[Record], tests: int) -> dict[str, Any]:
    """A network's measures, one number a seed; `curve` is the test error after every epoch."""
    curves = [[100 * (1 - epoch["test_accuracy"]) for epoch in record["history"]] for record in records]
    reached = [[i for i, value in enumerate(curve, 1) if value <= 100 * (1 - GOAL)] for curve in curves]
    return {
        "test_error": errors(records, tests).mean(axis=1).tolist(),
        "train_error": [100 * record["train_error"] for record in records],
        "seconds": [record["seconds"] for record in records],
        "diverged": sum(record["diverged"] for record in records),
        "epochs_to_98": [epochs[0] if epochs else None for epochs in reached],
        "curve": curves,
    }


def judged(claim: Claim, records: Mapping[str, Sequence[Record]], tests: int) -> dict[str, Any]:
    """A claim with its number, paired by seed (and by test digit), and what follows from it."""
    measure = MEASURES[claim.measure]
    parts = [weight * measure(records[net], tests) for net, weight in claim.weights.items()]
    found = estimate(np.sum(parts, axis=0))
    terms = " ".join(f"{'+' if weight > 0 else '-'} {net}" for net, weight in claim.weights.items())
    return {
        **{key: value for key, value in asdict(claim).items() if key != "weights"},
        "quantity": f"{claim.measure}: {terms.removeprefix('+ ')}",
        **asdict(found),
        "verdict": verdict(found, claim.expected),
    }


# --- how it is shown --------------------------------------------------------------------------------------------------

COLUMNS = ["network", "test error", "training error", "seconds", "epochs to 98 %"]


def save_pictures(run_dir: Path, tables: Mapping[str, dict[str, Any]]) -> list[str]:
    """Save a picture of every group, and return their names: none where matplotlib is missing."""
    if plots.missing():
        return []
    for name, table in tables.items():
        rows = [(r["net"], r["test_error"], r["curve"]) for r in table["rows"]]
        plots.comparison(run_dir / f"{name}.png", table["title"], rows)
    return [f"{name}.png" for name in tables]


def show(result: dict[str, Any], run_dir: Path) -> None:
    training = result["training"]
    for table in result["groups"].values():
        cells = [
            [network(r), *(spread(r[key]) for key in ("test_error", "train_error")), f"{np.mean(r['seconds']):.1f}",
             epochs(r["epochs_to_98"])]
            for r in table["rows"]
        ]  # fmt: skip
        seeds = len(table["rows"][0]["test_error"])
        how = f"errors in %, mean and standard deviation of {seeds} seeds, {training['epochs']} epochs"
        print_table(f"{table['title']}: {how}", COLUMNS, cells)
        for claim in table["claims"]:
            print(sentence(claim))


def network(row: dict[str, Any]) -> str:
    return row["net"] + (f" ({row['diverged']} diverged)" if row["diverged"] else "")


def spread(values: Sequence[float]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{deviation}"


def epochs(values: Sequence[int | None]) -> str:
    """The mean, or a dash where a seed did not get there."""
    there = [value for value in values if value is not None]
    return f"{np.mean(there):.1f}" if len(there) == len(values) else "-"


def sentence(claim: dict[str, Any]) -> str:
    """Section, claim, number and verdict."""
    error = "unknown" if claim["error"] is None else f"{claim['error']:.2f}"
    number = f"{claim['quantity']} = {claim['mean']:+.2f} points, standard error {error}"
    return f"{claim['section']} {claim['text']}? {number}: {claim['verdict']}"
