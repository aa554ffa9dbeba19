"""The Markdown table of one section of results. (Cost curves: report_curves.py.)"""

from __future__ import annotations

import math
from typing import Any

from goals import MEAN, PERCENT, percent_goal, ratio_goal

TITLES = {
    "conv": "Convolution layers",
    "ops": "Every other op, (64, 96, 32, 32) unless it says otherwise",
    "nets": "Networks, images a second",
    "curves": "Cost curves",
}
_LIMIT = (
    "Milliseconds of each side's better memory format. The limit is measured in the same turns, on arrays of its own "
    "(bench/floors.py): pass, the op's bytes read and written; fma, its FLOPs; exp, log, draw, its exponentials, "
    "logarithms and random words. Copy is the machine's rate just before, in GB/s. Errors are ||e|| / ||y|| against "
    "float64, the largest of all results."
)
READ = {
    "conv": f"{_LIMIT} Winograd multiplies less than the limit counts.",
    "ops": f"{_LIMIT} Where PyTorch computes an op in several ways the fastest counts; 'as stated' is the ratio to the "
    "one that the goal was set with.",
    "nets": "A training step is forward, loss, backward, SGD with momentum. Memory is what is resident above import at "
    "the peak of such a step, in MiB.",
}
Row = dict[str, Any]


def table(section: str, result: dict[str, Any]) -> str:
    """A row per problem and direction: each side at its better format, their ratio, its goal, percent of the limit."""
    columns = NETS if section == "nets" else OPS
    lines = [*heading(section, result), line(list(columns)), line(["---"] * len(columns))]
    lines += [line([cell(row) for cell in columns.values()]) for row in result["rows"]]
    return "\n".join([*lines, "", *summary(section, result["rows"])])


def heading(section: str, result: dict[str, Any]) -> list[str]:
    machine = result["machine"]
    about = (
        f"{machine['cpu']}, {machine['threads']} threads, {machine['fma_gflops']:.0f} GFLOP/s, "
        f"{machine['copy_gbs']:.1f} GB/s copy; cnncore {machine['cnncore']['version']} ({machine['cnncore']['isa']}), "
        f"PyTorch {machine['torch']}. `python bench/compare.py {section} --seconds {machine['seconds']:g}`"
    )
    failed = [f"Failed: {name}: {why}" for name, why in result.get("failed", {}).items()]
    notes = [text for text in (about, READ.get(section, ""), *failed) if text]
    return [f"## {TITLES[section]}", "", *(part for note in notes for part in (note, ""))]


def best(row: Row, side: str) -> float:
    return min((ms for name, ms in row["best"].items() if name.startswith(side)), default=math.nan)


def ratio(row: Row) -> float:
    """How many times as fast as PyTorch; NaN where it has no such op."""
    return best(row, "torch") / best(row, "cnncore")


def limit(row: Row) -> tuple[float, str]:
    """Milliseconds and name of the floor that counts: of forward, of backward, or of both their sum, the largest."""
    sides = [name.split() for name in row["best"] if name.startswith("floor ")]
    largest = []
    for part in dict.fromkeys(part for _, part, *_ in sides):
        kinds = {kind for _, other, kind, *_ in sides if other == part}
        largest.append(max((best(row, f"floor {part} {kind}"), kind) for kind in kinds))
    names = dict.fromkeys(kind for _, kind in largest)
    return (sum(ms for ms, _ in largest), ", ".join(names)) if largest else (math.nan, "")


def percent(row: Row) -> float:
    return 100 * limit(row)[0] / best(row, "cnncore")


def ratio_met(row: Row) -> bool:
    goal = ratio_goal(row)
    return goal is None or ratio(row) >= goal


def percent_met(row: Row) -> bool:
    goal = percent_goal(row)
    return goal is None or percent(row) >= goal


# --- summary ---


def summary(section: str, rows: list[Row]) -> list[str]:
    lines = [_means(section, rows), _counted("Stated ratios met", rows, ratio_goal, ratio_met), _missed(rows)]
    lines.append(_counted(f"At {PERCENT} % of the limit or more", rows, percent_goal, percent_met))
    fractions = [_fraction(row) for row in rows if row.get("memory")]
    if fractions:
        lines.append(f"Memory, goal 1 or less: met by {sum(f <= 1 for f in fractions)} of {len(fractions)}.")
    return [text for one in lines if one for text in (one, "")][:-1]


def _means(section: str, rows: list[Row]) -> str:
    found = []
    for direction in dict.fromkeys(row["direction"] for row in rows):
        ratios = [r for row in rows if row["direction"] == direction and math.isfinite(r := ratio(row))]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            stated = f" ({_verdict(MEAN, mean >= MEAN)})" if (section, direction) == ("conv", "both") else ""
            found.append(f"{direction} {mean:.2f}{stated}")
    return f"Geometric mean of the ratios: {', '.join(found) or 'none'}."


def _counted(what: str, rows: list[Row], goal: Any, met: Any) -> str:
    """How many rows meet their goals, by direction."""
    stated = [row for row in rows if goal(row) is not None]
    parts = []
    for direction in dict.fromkeys(row["direction"] for row in stated):
        some = [row for row in stated if row["direction"] == direction]
        parts.append(f"{direction} {sum(map(met, some))} of {len(some)}")
    return f"{what}: {', '.join(parts)}." if parts else ""


def _missed(rows: list[Row]) -> str:
    found = [f"{row['op']} {row['problem']} {row['direction']}" for row in rows if not ratio_met(row)]
    return f"Missed: {', '.join(found)}." if found else ""


# --- cells ---


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def ms(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else ""


def times(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else ""


def _verdict(goal: float, met: bool) -> str:
    return f"{goal:g} met" if met else f"**{goal:g} missed**"


def _goal(row: Row) -> str:
    goal = ratio_goal(row)
    if goal is None or not math.isfinite(ratio(row)):
        return ""
    usual = min((t for name, t in row["best"].items() if name.startswith("torch") and len(name.split()) == 2))
    other = usual / best(row, "cnncore")
    stated = f" ({other:.2f} as stated)" if usual > best(row, "torch") else ""
    return _verdict(goal, ratio_met(row)) + stated


def _percent(row: Row) -> str:
    share = percent(row)
    if not math.isfinite(share):
        return ""
    return f"{share:.0f} % {limit(row)[1]}" if percent_met(row) else f"**{share:.0f} %** {limit(row)[1]}"


def _error(row: Row, side: str) -> str:
    errors = [e for name, e in row["error"].items() if name.startswith(side)]
    return f"{max(errors):.1e}" if errors else ""


def _rate(row: Row, side: str) -> str:
    return f"{1e3 * row['samples'] / best(row, side):.0f}"


def _memory(row: Row, side: str) -> str:
    return f"{row['memory'][side]:.0f}" if row.get("memory") else ""


def _fraction(row: Row) -> float:
    return float(row["memory"]["cnncore"] / row["memory"]["torch"])


OPS = {
    "op": lambda row: row["op"],
    "problem": lambda row: row["problem"],
    "direction": lambda row: row["direction"],
    "cnncore ms": lambda row: ms(best(row, "cnncore")),
    "torch ms": lambda row: ms(best(row, "torch")),
    "ratio": lambda row: times(ratio(row)),
    "goal": _goal,
    "limit ms": lambda row: ms(limit(row)[0]),
    "percent of limit": _percent,
    "copy": lambda row: f"{row['copy']:.0f}" if row.get("copy") else "",
    "error": lambda row: _error(row, "cnncore"),
    "torch's error": lambda row: _error(row, "torch"),
}
NETS = {
    "network": lambda row: row["op"],
    "batch": lambda row: row["problem"],
    "direction": lambda row: row["direction"],
    "cnncore": lambda row: _rate(row, "cnncore"),
    "torch": lambda row: _rate(row, "torch"),
    "ratio": lambda row: times(ratio(row)),
    "goal": _goal,
    "memory": lambda row: _memory(row, "cnncore"),
    "torch's memory": lambda row: _memory(row, "torch"),
    "fraction, goal 1": lambda row: times(_fraction(row)) if row.get("memory") else "",
}
