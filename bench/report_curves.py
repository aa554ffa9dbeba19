"""Cost curves: a table for each op and direction, and a picture of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from points import AXES, BASE, THREADS
from report import Row, best, heading, limit, line, ms, ratio, times

from cnncore import plots

SIDES = (("cnncore", "tab:blue"), ("torch", "tab:orange"), ("floor", "tab:gray"))


def curves_table(result: dict[str, Any]) -> str:
    """Milliseconds on one thread and two, at each side's better format."""
    cells = ("cnncore ms", "torch ms", "ratio")
    head = ["batch x channels x image", *(f"{cell}, {t}" for t in THREADS for cell in cells)]
    parts = heading("curves", result)
    parts.append("3x3 windows: a padded convolution to 64 maps, and max pooling at stride 2. ![](curves.png)")
    for op, direction in panels(result["rows"]):
        rows = [row for row in result["rows"] if (row["op"], row["direction"]) == (op, direction)]
        parts += ["", f"### {op}, {direction}", "", line(head), line(["---"] * len(head))]
        for problem in dict.fromkeys(row["problem"] for row in rows):
            by_threads = {row["point"]["threads"]: row for row in rows if row["problem"] == problem}
            found = [by_threads[t] for t in THREADS if t in by_threads]
            told = [(ms(best(row, "cnncore")), ms(best(row, "torch")), times(ratio(row))) for row in found]
            parts.append(line([problem, *(cell for three in told for cell in three)]))
    return "\n".join(parts)


def panels(rows: list[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["op"], row["direction"]) for row in rows))


def curve(rows: list[Row], axis: str, threads: int, side: str) -> list[tuple[int, float]]:
    """(value, ms) of the rows that differ from BASE in this axis alone, in order."""
    fixed = {name: value for name, value in {**BASE, "threads": threads}.items() if name != axis}
    chosen = [row for row in rows if fixed.items() <= row["point"].items()]
    return sorted((row["point"][axis], _time(row, side)) for row in chosen)


def _time(row: Row, side: str) -> float:
    return limit(row)[0] if side == "floor" else best(row, side)


def draw(result: dict[str, Any], path: Path) -> None:
    """One small picture per op, direction and axis; both axes are logarithmic."""
    chosen = panels(result["rows"])
    drawing = plots.figure(9, 2.4 * len(chosen))
    grid = drawing.subplots(len(chosen), len(AXES), squeeze=False)
    for axes_of_op, (op, direction) in zip(grid, chosen, strict=True):
        rows = [row for row in result["rows"] if (row["op"], row["direction"]) == (op, direction)]
        for axes, axis in zip(axes_of_op, AXES, strict=True):
            for side, color in SIDES:
                for threads, style in zip(THREADS, ("--", "-"), strict=True):
                    points = curve(rows, axis, threads, side)
                    label = f"{side}, {threads} thread{'s' * (threads > 1)}"
                    values, ms_of = [value for value, _ in points], [time for _, time in points]
                    axes.plot(values, ms_of, style, color=color, marker=".", linewidth=1, label=label)
            axes.set(xscale="log", yscale="log", xlabel=axis, title=f"{op}, {direction}")
            axes.set_xticks(AXES[axis], map(str, AXES[axis]))
            axes.minorticks_off()
            axes.grid(alpha=0.3)
        axes_of_op[0].set_ylabel("ms")
    handles, labels = axes.get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=len(SIDES))
    plots.save(drawing, path)
