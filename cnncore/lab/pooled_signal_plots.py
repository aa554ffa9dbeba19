"""The pictures of `cnncore lab pooled-signal`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import plots

Tile = tuple[np.ndarray, str]  # an image (H, W), and what stands below it
Row = tuple[str, list[Tile]]  # its label, and its tiles


def tiles(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> Any:
    """Save a labelled grid of images as a PNG: 0 is black; white is 1, or the image's largest value if that is more."""
    drawing = plots.figure(1.6 + 1.15 * len(columns), 0.3 + 1.25 * len(rows))
    grid = drawing.subplots(len(rows), len(columns), squeeze=False)
    for axes, title in zip(grid[0], columns, strict=True):
        axes.set_title(title, fontsize=8)
    for across, (label, images) in zip(grid, rows, strict=True):
        across[0].set_ylabel(label, rotation="horizontal", ha="right", va="center", fontsize=8)
        for axes, (image, text) in zip(across, images, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=max(1.0, float(image.max())))
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(text, fontsize=7, labelpad=2)
    return plots.save(drawing, path)


def errors(path: Path, lines: Mapping[str, Sequence[Mapping[str, Any]]], close: float) -> Any:
    """Save error against redundancy as a PNG: a line for every regime's means, a band from its least to its largest."""
    drawing = plots.figure(7.5, 4.5)
    axes = drawing.subplots()
    for i, (name, line) in enumerate(lines.items()):
        redundancy = [point["redundancy"] for point in line]
        least, most = ([extreme(point["errors"]) for point in line] for extreme in (min, max))
        axes.plot(redundancy, [point["mean"] for point in line], "-" + "osD^v"[i % 5], color=f"C{i}", label=name)
        axes.fill_between(redundancy, least, most, color=f"C{i}", alpha=0.08)
    axes.axhline(close, color="black", linewidth=0.8, linestyle=":", label=f"recovered: below {close:.0%}")
    axes.set_xscale("log", base=2)
    plots.log_scale(axes)
    axes.set_xticks(redundancy, [f"{value:g}" for value in redundancy])
    axes.set(xlabel="redundancy: pooled values for each pixel", ylabel="error |z - x| / |x|")
    drawing.legend(fontsize=8, loc="outside center right")
    return plots.save(drawing, path)
