"""Pictures of a training run, drawn by matplotlib (the extra "plot")."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import write_atomically
from .errors import CnncoreError, ShapeError, install_hint


def missing() -> str | None:
    """How to get matplotlib where it is not installed, else None."""
    return None if importlib.util.find_spec("matplotlib") else f"pictures need matplotlib: {install_hint('plot')}"


def figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure of a size in inches. Raises CnncoreError where matplotlib is missing."""
    reason = missing()
    if reason:
        raise CnncoreError(reason)
    from matplotlib.figure import Figure  # not pyplot, which keeps global state and looks for a display

    return Figure((width, height), layout="constrained")


def save(drawing: Any, path: str | Path) -> None:
    """Write a drawing as a PNG, whole or not at all."""
    picture = io.BytesIO()
    drawing.savefig(picture, dpi=120, format="png")
    write_atomically(path, picture.getvalue())


def learning_curve(path: str | Path, train: Sequence[float], test: Sequence[float]) -> None:
    """Save the training and test errors (in percent, one an epoch) as a PNG; the error's axis is logarithmic."""
    drawing = figure(5, 3.2)
    axes = drawing.subplots()
    epochs = np.arange(1, len(test) + 1)
    for errors, name, style in ((train, "training, with shifts and dropout", "--"), (test, "test", "-")):
        axes.plot(epochs, np.maximum(errors, 1e-2), style, marker="o", markersize=3, label=name)
    axes.set(xlabel="epoch", ylabel="errors, %", yscale="log", title=f"last epoch: {100 - test[-1]:.2f} % right")
    axes.xaxis.get_major_locator().set_params(integer=True)
    for labels in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        labels("{x:g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    save(drawing, path)


def filters(path: str | Path, weight: np.ndarray) -> None:
    """Save the filters (K, 1 or 3, h, w) of a first layer as a PNG of K tiles.

    One-channel filters share one scale, blue below zero and red above; three channels are red, green and blue.
    Raises ShapeError for other shapes.
    """
    if weight.ndim != 4 or weight.shape[1] not in (1, 3) or 0 in weight.shape:
        raise ShapeError(f"filters: weight must be (K, 1 or 3, h, w), got shape {weight.shape}")
    columns = min(8, len(weight))
    rows = math.ceil(len(weight) / columns)
    drawing = figure(0.6 * columns, 0.6 * rows)
    most = float(np.abs(weight).max()) or 1.0
    for i, axes in enumerate(drawing.subplots(rows, columns, squeeze=False).ravel()):
        axes.axis("off")
        if i >= len(weight):
            continue
        if weight.shape[1] == 1:
            axes.imshow(weight[i, 0], cmap="RdBu_r", vmin=-most, vmax=most)
        else:
            axes.imshow((np.moveaxis(weight[i], 0, -1) / most + 1) / 2)
    save(drawing, path)


def comparison(path: str | Path, title: str, rows: Sequence[tuple[str, Sequence[float], Sequence[Any]]]) -> None:
    """Save rows of (name, a number a repetition, a curve a repetition) as a PNG: errors in percent.

    Left a dot for every repetition and a line at the mean; right the mean curves over the epochs, logarithmic.
    """
    drawing = figure(11, 1.6 + 0.28 * len(rows))
    dots, curves = drawing.subplots(1, 2)
    for i, (name, values, each) in enumerate(rows):
        color = f"C{i % 10}"
        dots.plot(values, [i] * len(values), "o", color=color, alpha=0.6)
        dots.plot([np.mean(values)] * 2, [i - 0.3, i + 0.3], color=color)
        mean = np.maximum(np.mean(each, axis=0), 1e-2)
        style = ("-", "--", ":")[i // 10 % 3]
        curves.plot(np.arange(1, len(mean) + 1), mean, style, color=color, marker="o", markersize=3, label=name)
    dots.set(yticks=range(len(rows)), yticklabels=[name for name, _, _ in rows], xlabel="errors, %", title=title)
    dots.invert_yaxis()
    dots.grid(alpha=0.3, axis="x")
    curves.set(xlabel="epoch", ylabel="errors, %", yscale="log", title="while learning")
    curves.xaxis.get_major_locator().set_params(integer=True)
    for labels in (curves.yaxis.set_major_formatter, curves.yaxis.set_minor_formatter):
        labels("{x:g}")
    curves.grid(alpha=0.3, which="both")
    drawing.legend(loc="outside right upper", fontsize="small")
    save(drawing, path)
