"""Pictures of a training run, drawn by matplotlib (the extra "plot").

Each returns its Figure, which a notebook shows, and saves it as a PNG where it is given a path.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import write_atomically
from .errors import CnncoreError, ShapeError, install_hint

Path_ = str | Path | None

MOST_TILES = 64  # of a row or a column: more could not be told apart


def missing() -> str | None:
    """How to get matplotlib where it is not installed, else None."""
    return None if importlib.util.find_spec("matplotlib") else f"pictures need matplotlib: {install_hint('plot')}"


def figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure of a size in inches. Raises CnncoreError where matplotlib is missing."""
    reason = missing()
    if reason:
        raise CnncoreError(reason)
    from .drawing import Drawing

    return Drawing((width, height), layout="constrained")


def save(drawing: Any, path: Path_) -> Any:
    """Write a drawing as a PNG, whole or not at all, unless the path is None; return the drawing."""
    if path is not None:
        write_atomically(path, drawing.png())
    return drawing


def log_scale(axes: Any) -> None:
    """Make the y axis of finished axes logarithmic, with ticks at round numbers that do not overlap."""
    axes.set_yscale("log")
    ticks = _round_numbers(*axes.get_ylim())
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_formatter("")
    axes.grid(alpha=0.3, which="both")


def _round_numbers(least: float, most: float) -> list[float]:
    """Three numbers at least between two, the roundest: powers of ten, or 1, 2, 5 times those, or ..."""
    decades = [10.0**k for k in range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)]
    for digits in ([1], [1, 2, 5], [1, 2, 3, 5, 7]):
        ticks = [digit * decade for decade in decades for digit in digits if least <= digit * decade <= most]
        if len(ticks) >= 3:
            return ticks
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(4).tick_values(least, most) if least <= tick <= most]


def learning_curve(path: Path_, train: Sequence[float], test: Sequence[float], *, training: str = "training") -> Any:
    """The training and test errors (in percent, one an epoch); the error's axis is logarithmic.

    `training` names the first curve: what made training harder than the test belongs there.
    """
    drawing = figure(5, 3.2)
    axes = drawing.subplots()
    epochs = np.arange(1, len(test) + 1)
    for errors, name, style in ((train, training, "--"), (test, "test", "-")):
        axes.plot(epochs, np.maximum(errors, 1e-2), style, marker="o", markersize=3, label=name)
    axes.set(xlabel="epoch", ylabel="errors, %", title=f"last epoch: {100 - test[-1]:.2f} % right")
    axes.xaxis.get_major_locator().set_params(integer=True)
    log_scale(axes)
    axes.legend()
    return save(drawing, path)


def filters(path: Path_, weight: np.ndarray) -> Any:
    """The filters (K, C, h, w) of a convolution.

    Of a first layer (C is 1 or 3) K tiles: one-channel filters share one scale, blue below zero and red above; three
    channels are red, green and blue. Of a later one a row for each filter with a tile for each channel, the first 64 of
    both, on one such scale. What is not finite is white. Raises ShapeError for other shapes.
    """
    if weight.ndim != 4 or 0 in weight.shape:
        raise ShapeError(f"filters: weight must be (K, C, h, w), got shape {weight.shape}")
    finite = np.isfinite(weight)
    most = float(np.abs(weight[finite]).max(initial=0)) or 1.0
    scaled = np.where(finite, weight, np.nan) / most
    drawing = _tiles(scaled) if weight.shape[1] in (1, 3) else _mosaic(scaled)
    return save(drawing, path)


def _tiles(weight: np.ndarray) -> Any:
    columns = min(8, len(weight))
    rows = math.ceil(len(weight) / columns)
    drawing = figure(0.6 * columns, 0.6 * rows)
    for i, axes in enumerate(drawing.subplots(rows, columns, squeeze=False).ravel()):
        axes.axis("off")
        if i >= len(weight):
            continue
        if weight.shape[1] == 1:
            axes.imshow(weight[i, 0], cmap="RdBu_r", vmin=-1, vmax=1)
        else:
            axes.imshow(np.nan_to_num((np.moveaxis(weight[i], 0, -1) + 1) / 2, nan=1.0))
    return drawing


def _mosaic(weight: np.ndarray) -> Any:
    shown = weight[:MOST_TILES, :MOST_TILES]
    parted = np.pad(shown, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    k, c, h, w = parted.shape
    picture = parted.transpose(0, 2, 1, 3).reshape(k * h, c * w)[:-1, :-1]
    scale = min(0.06, 9 / max(picture.shape))  # inches for each weight
    drawing = figure(max(2.0, scale * picture.shape[1]) + 0.4, max(1.6, scale * picture.shape[0]) + 0.4)
    axes = drawing.subplots()
    axes.imshow(picture, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axes.set(
        xticks=[],
        yticks=[],
        xlabel=_counted(c, weight.shape[1], "channels"),
        ylabel=_counted(k, len(weight), "filters"),
    )
    axes.set_frame_on(False)
    return drawing


def _counted(shown: int, there: int, what: str) -> str:
    return f"{there} {what}" if shown == there else f"the first {shown} of {there} {what}"


def comparison(path: Path_, title: str, rows: Sequence[tuple[str, Sequence[float], Sequence[Any]]]) -> Any:
    """Rows of (name, a number a repetition, a curve a repetition): errors in percent.

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
    curves.set(xlabel="epoch", ylabel="errors, %", title="while learning")
    curves.xaxis.get_major_locator().set_params(integer=True)
    log_scale(curves)
    drawing.legend(loc="outside right upper", fontsize="small")
    return save(drawing, path)
