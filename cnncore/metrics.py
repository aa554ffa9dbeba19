"""What is measured of a network's outputs beside the loss, and the check that labels are such.

A metric is a function (outputs, labels) -> number with a name of its own, for arrays on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import CnncoreError, DTypeError, ShapeError
from .ops.scalars import number

Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The share of samples whose largest output is at their label, for outputs (N, K) and labels (N,).

    Raises ShapeError, DTypeError, CnncoreError, as `check_labels` does; ShapeError where there is no sample.
    """
    check_labels("accuracy", outputs.shape, labels)
    if not len(labels):
        raise ShapeError("accuracy: needs at least one sample")
    return int(np.count_nonzero(outputs.argmax(axis=1) == labels)) / len(labels)


def check_labels(who: str, outputs: tuple[int, ...], labels: Any) -> None:
    """Raise unless labels are classes of outputs with shape (N, K): integers in [0, K), of shape (N,).

    Raises ShapeError, DTypeError (no integers), CnncoreError (a label out of range), each with `who` in front.
    """
    if len(outputs) != 2 or outputs[1] == 0:
        raise ShapeError(f"{who}: outputs must be (N, K), a number for each of K classes, got shape {outputs}")
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        kind = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        raise DTypeError(f"{who}: labels must be a NumPy array of integers, got {kind}")
    if labels.shape != outputs[:1]:
        raise ShapeError(f"{who}: labels must have shape {outputs[:1]}, got {labels.shape}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < outputs[1]):
        wrong = int(np.flatnonzero((labels < 0) | (labels >= outputs[1]))[0])
        raise CnncoreError(f"{who}: labels must lie in [0, {outputs[1]}), got {labels[wrong]} at index {wrong}")


def name_of(metric: Any) -> str:
    """A metric's name, which its figures are kept under. Raises CnncoreError where it has none."""
    name = getattr(metric, "__name__", None)
    if not callable(metric) or not isinstance(name, str) or not name.isidentifier() or name == "loss":
        raise CnncoreError(
            f"Trainer: metric must be a function (outputs, labels) with a name of its own, got {metric!r}"
        )
    return name


def measure(metric: Metric, outputs: np.ndarray, labels: np.ndarray) -> float:
    """A metric's figure, NaN included. Raises CnncoreError where it gives no number."""
    figure = metric(outputs, labels)
    found = number(figure)
    if found is None:
        raise CnncoreError(f"fit: metric {name_of(metric)} must give a number, got {figure!r}")
    return float(found)


def shown(metric: Metric | None, value: float | None) -> str:
    """A figure as people read it: shares in percent, and a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.2%}" if metric is accuracy else f"{value:.4g}"
