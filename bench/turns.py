"""How sides are compared: they take turns, in one process, each at every memory format.

Between two calls of a side all the others have theirs, so each finds its arrays as cold as the others find theirs, and
whatever else the machine does slows all alike. Both sides' threads are one OpenMP pool: PyTorch, imported first, brings
the library that the kernels are then bound to, so no side's threads spin while the other computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnncore.bench.measure import once, peaks

FORMATS = ("contiguous", "channels_last")
Calls = dict[str, Callable[[], Any]]


@dataclass
class Row:
    """One problem in one direction. A side is "cnncore", "torch" or "floor" (floors.py) and what tells it from the
    side's others: "torch channels_last", "floor forward fma". A side is as good as its best."""

    section: str
    op: str
    problem: str
    direction: str  # forward, backward, both, train, infer
    best: dict[str, float] = field(default_factory=dict)  # ms
    median: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    copy: float | None = None  # GB/s of the machine just before: a virtual one changes where its cores are
    error: dict[str, float] = field(default_factory=dict)  # ||e|| / ||y|| against float64, the largest of all results
    samples: int = 0  # in a call: images of a network's batch
    memory: dict[str, float] = field(default_factory=dict)  # "cnncore", "torch": MiB above import, at the peak
    point: dict[str, int] = field(default_factory=dict)  # of a cost curve: batch, channels, image, threads


class Wrong(Exception):
    """A side computes something else."""


def take_turns(calls: Calls, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of every call, in turns, until they had `seconds` each on average; one call of each warms up."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    rounds, spent = 0, 0.0
    while rounds < 3 or spent < seconds * len(calls):
        for name, call in calls.items():
            taken = once(call)
            times[name].append(1e3 * taken)
            spent += taken
        rounds += 1
    return times


def fill(row: Row, calls: Calls, seconds: float) -> Row:
    row.copy = peaks(0.02).copy
    times = take_turns(calls, seconds)
    row.best = {name: min(t) for name, t in times.items()}
    row.median = {name: float(np.median(t)) for name, t in times.items()}
    row.rounds = len(next(iter(times.values())))
    return row


def distance(found: Any, right: Any) -> float:
    found, right = np.asarray(found, np.float64), np.asarray(right, np.float64)
    return float(np.linalg.norm(found - right) / max(np.linalg.norm(right), 1e-300))
