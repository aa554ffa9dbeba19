"""What gradcheck found: a table to print, a figure of error against step, a dictionary for JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from . import plots
from .errors import CnncoreError
from .gradcheck_curve import OK, WRONG, Curve

CONSTANT, EMPTY, UNTESTED = "constant", "empty", "untested"
PASSES = (OK, CONSTANT, EMPTY)


@dataclass(frozen=True)
class Wrong:
    """One wrong entry of a gradient: what backward gave, and the derivative."""

    argument: str
    index: tuple[int, ...]
    analytic: float
    numeric: float


@dataclass
class Argument:
    """What was found for one argument or parameter.

    verdict: "ok", "wrong", "undecided", "untested" (every entry at a kink), "constant" (not differentiable), "empty".
    """

    name: str
    shape: tuple[int, ...]
    verdict: str
    curves: tuple[Curve, ...] = ()  # one per direction
    wrong: list[Wrong] = field(default_factory=list)
    kinks: list[tuple[int, ...]] = field(default_factory=list)  # entries that no step could compare
    more: bool = False  # whether there may be wrong entries beyond the ones named

    @property
    def curve(self) -> Curve | None:
        """The direction that shows the verdict: the first that has it, else the first that decided anything."""
        same = [c for c in self.curves if c.verdict == self.verdict]
        return next(iter(same or [c for c in self.curves if c.best] or self.curves), None)

    @property
    def error(self) -> float:
        """The largest relative error over the directions; 0 where nothing was compared."""
        errors = [c.error for c in self.curves if not math.isnan(c.error)]
        return max(errors, default=0.0)


@dataclass
class Report:
    """The result of `gradcheck`. `print(report)` shows the table, `report.plot()` the curves."""

    subject: str
    backend: str
    dtype: str
    arguments: list[Argument] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # what is wrong beyond numbers: a shape, a missing gradient
    forward_error: float | None = None  # for an op without gradient: the relative difference from the definition

    @property
    def ok(self) -> bool:
        """No problem, and every argument's gradient was compared and found right."""
        return not self.problems and all(a.verdict in PASSES for a in self.arguments)

    @property
    def max_error(self) -> float:
        """The largest relative error of any argument."""
        return max([a.error for a in self.arguments] + [self.forward_error or 0.0])

    @property
    def wrong(self) -> list[Wrong]:
        """The wrong entries, at most ten per argument."""
        return [w for a in self.arguments for w in a.wrong]

    def __str__(self) -> str:
        title = f"gradcheck {self.subject}: {self.backend}, {self.dtype}: {'ok' if self.ok else 'WRONG'}"
        lines = [title, *(f"  {problem}" for problem in self.problems)]
        if self.forward_error is not None:
            lines.append(f"  no gradient; forward differs from the definition by {self.forward_error:.1e}")
        if self.arguments:
            head = ("argument", "shape", "error", "falls as", "noticed from", "at step", "verdict")
            lines += _columns([head, *(_row(a) for a in self.arguments)])
        for a in self.arguments:
            lines += [
                f"  {a.name}{list(w.index)}: backward {w.analytic:.6g}, derivative {w.numeric:.6g}" for w in a.wrong
            ]
            if a.more:
                lines.append(f"  {a.name}: there may be further wrong entries")
            if a.kinks:
                lines.append(f"  {a.name}: at a kink, not compared: {_some(a.kinks)}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """All of it in plain types, for JSON; numbers that JSON does not know (NaN, inf) become None."""
        return {
            "subject": self.subject,
            "backend": self.backend,
            "dtype": self.dtype,
            "ok": self.ok,
            "max_error": _plain(self.max_error),
            "problems": self.problems,
            "forward_error": _plain(self.forward_error),
            "arguments": [_argument(a) for a in self.arguments],
        }

    def plot(self, path: Any = None) -> Any:
        """Error against step, one curve per argument, with the slope h^2; returns the matplotlib Figure.

        `path` also saves it. A right gradient follows h^2 down to where rounding takes over, a wrong one stays flat.
        Raises CnncoreError where matplotlib is missing or there is no curve to draw.
        """
        drawn = [(a.name, a.curve) for a in self.arguments if a.curve is not None and a.curve.usable]
        if not drawn:
            raise CnncoreError(f"gradcheck: nothing to plot for {self.subject}, no argument has a curve")
        drawing = plots.figure(6.4, 4.8)
        axes = drawing.subplots()
        for name, curve in drawn:
            scale = curve.scale or 1.0
            h = [s.h for s in curve.usable]
            errors = [max(abs(s.slope - curve.analytic) / scale, 1e-17) for s in curve.usable]
            (line,) = axes.loglog(h, errors, "o-", label=f"{name}: {curve.verdict}")
            if curve.best is not None:
                axes.loglog(curve.best.h, max(curve.resolution, 1e-17), "v", color=line.get_color())
        reference = [s.h for s in drawn[0][1].usable]
        top = max(abs(s.slope - c.analytic) / (c.scale or 1.0) for _, c in drawn for s in c.usable) or 1e-2
        axes.loglog(reference, [top * (h / reference[0]) ** 2 for h in reference], "k--", lw=1, label="slope $h^2$")
        axes.set_ylim(bottom=1e-18)
        axes.set_xlabel("step h (in units of the argument's size)")
        axes.set_ylabel("|numeric - analytic| / size of the slope")
        axes.set_title(f"{self.subject} ({self.backend}, {self.dtype}); ▾: errors above it are called wrong")
        axes.legend()
        if path is not None:
            plots.save(drawing, path)
        return drawing


def _row(a: Argument) -> tuple[str, ...]:
    curve, shape = a.curve, "x".join(map(str, a.shape)) or "scalar"
    if curve is None or curve.best is None:
        return a.name, shape, "", "", "", "", a.verdict
    falls = "stays" if a.verdict == WRONG else "rounding" if curve.order is None else f"h^{curve.order:.1f}"
    numbers = f"{a.error:.1e}", falls, f"{curve.resolution:.1e}", f"{curve.best.h:.1e}"
    return a.name, shape, *numbers, a.verdict.upper() if a.verdict == WRONG else a.verdict


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _some(indices: list[tuple[int, ...]]) -> str:
    shown = ", ".join(str(list(i)) for i in indices[:5])
    return shown + (f" and {len(indices) - 5} more" if len(indices) > 5 else "")


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _argument(a: Argument) -> dict[str, Any]:
    curve = a.curve
    return {
        "name": a.name,
        "shape": list(a.shape),
        "verdict": a.verdict,
        "error": _plain(a.error),
        "resolution": _plain(curve.resolution) if curve else None,
        "steps": [{"h": s.h, "slope": _plain(s.slope), "crossed": s.crossed} for s in curve.steps] if curve else [],
        "wrong": [
            {"index": list(w.index), "analytic": _plain(w.analytic), "numeric": _plain(w.numeric)} for w in a.wrong
        ],
        "kinks": [list(i) for i in a.kinks],
        "more": a.more,
    }
