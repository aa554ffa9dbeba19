"""The Markdown table of one section of results."""

from __future__ import annotations

import math
from typing import Any

TITLES = {
    "conv": "Convolution layers",
    "ops": "Every other op, (64, 96, 32, 32) unless it says otherwise",
    "nets": "Networks, images a second",
}


def table(section: str, result: dict[str, Any]) -> str:
    """A row per problem and direction: each side at its better format, their ratio, percent of the limit, errors."""
    machine = result["machine"]
    about = (
        f"{machine['cpu']}, {machine['threads']} threads, {machine['fma_gflops']:.0f} GFLOP/s, "
        f"{machine['copy_gbs']:.1f} GB/s copy; cnncore {machine['cnncore']['version']} ({machine['cnncore']['isa']}), "
        f"PyTorch {machine['torch']}. `python bench/compare.py {section}`"
    )
    images = section == "nets"
    head = ["op", "problem", "direction", "cnncore" + ("" if images else " ms"), "torch" + ("" if images else " ms")]
    head += ["ratio"] + ([] if images else ["percent of limit", "error", "torch's error"])
    lines = [f"## {TITLES[section]}", "", about, "", _line(head), _line(["---"] * len(head))]
    ratios: dict[str, list[float]] = {}
    for row in result["rows"]:
        ours, theirs = best(row, "cnncore"), best(row, "torch")
        ratio = theirs / ours
        if math.isfinite(ratio):
            ratios.setdefault(row["direction"], []).append(ratio)
        cells = [row["op"], row["problem"], row["direction"]]
        cells += [_rate(row, ours), _rate(row, theirs)] if images else [_ms(ours), _ms(theirs)]
        cells.append(f"{ratio:.2f}" if math.isfinite(ratio) else "")
        if not images:
            cells.append(f"{100 * row['limit_ms'] / ours:.0f} % {row['unit']}")
            cells += [_error(row, "cnncore"), _error(row, "torch")]
        lines.append(_line(cells))
    means = [f"{d} {math.exp(sum(map(math.log, r)) / len(r)):.2f}" for d, r in ratios.items()]
    return "\n".join([*lines, "", f"Geometric mean of the ratios: {', '.join(means) or 'none'}."])


def best(row: dict[str, Any], side: str) -> float:
    return min((ms for name, ms in row["best"].items() if name.startswith(side)), default=math.nan)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ms(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else ""


def _rate(row: dict[str, Any], ms: float) -> str:
    return f"{1e3 * row['samples'] / ms:.0f}"


def _error(row: dict[str, Any], side: str) -> str:
    errors = [e for name, e in row["error"].items() if name.startswith(side)]
    return f"{max(errors):.1e}" if errors else ""
