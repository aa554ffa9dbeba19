"""What gradcheck found: a table to print, a figure of error against step, a dictionary for JSON."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field
from typing import Any

from . import plots
from .errors import CnncoreError
from .gradcheck_curve import KINK, OK, UNDECIDED, WRONG, Curve

CONSTANT, EMPTY = "constant", "empty"
SHOWN = 5  # entries without a derivative that are printed
LEGEND = (
    "error: relative difference of slope and gradient. falls as: how it falls with the step h; kinks: unevenly.",
    "noticed from: the smallest error that would be WRONG. at step: the h that decided, relative to x.",
    "constant: held constant, not checked. empty: no entries.",
)


@dataclass(frozen=True)
class Wrong:
    """One wrong entry of a gradient: what backward gave, and the derivative.

    At a kink there is none: `sides` are then the slopes to the left and right, and `numeric` the nearer one.
    """

    argument: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    sides: tuple[float, float] | None = None

    def __str__(self) -> str:
        place, given = f"{self.argument}{_index(self.index)}", f"backward {self.analytic:.6g}"
        if self.sides is not None:
            left, right = self.sides
            return f"{place}: not differentiable here: left {left:.6g}, right {right:.6g}; {given} does not lie between"
        end = ": the NaN is backward's" if math.isnan(self.analytic) else ""
        return f"{place}: {given}, derivative {_number(self.numeric)}{end}"


@dataclass(frozen=True)
class Kink:
    """One entry where f has no derivative: what backward gave, and the slopes on its two sides."""

    argument: str
    index: tuple[int, ...]
    analytic: float
    left: float
    right: float

    def __str__(self) -> str:
        return (
            f"{self.argument}{_index(self.index)}: not differentiable here: left {self.left:.6g}, "
            f"right {self.right:.6g}; backward's {self.analytic:.6g} lies between"
        )


@dataclass
class Argument:
    """What was found for one argument or parameter.

    verdict: "ok", "wrong", "not differentiable" (a kink at every entry), "cannot tell", "constant" (held constant, or
        claimed to be), "empty". An ok argument may have `kinks` too: the other entries are right.
    """

    name: str
    shape: tuple[int, ...]
    verdict: str
    curves: tuple[Curve, ...] = field(default=(), repr=False)  # one per direction
    wrong: list[Wrong] = field(default_factory=list)
    kinks: list[Kink] = field(default_factory=list)  # entries without a derivative, backward between the two slopes
    more: bool = False  # whether there may be wrong entries beyond the ones named
    unseen: int = 0  # entries that were not looked at
    reason: str = ""  # why the verdict is "cannot tell", and what would help

    @property
    def curve(self) -> Curve | None:
        """The direction that shows the verdict: the first that has it, else the first that decided anything."""
        same = [c for c in self.curves if c.verdict == self.verdict]
        return next(iter(same or [c for c in self.curves if c.best] or self.curves), None)

    @property
    def error(self) -> float:
        """The largest relative error over the directions; 0 where nothing was compared."""
        errors = [c.error for c in self.curves if not (math.isnan(c.error) or c.coarse)]
        return max(errors, default=0.0)


@dataclass(repr=False)
class Report:
    """The result of `gradcheck`: `ok` (also its truth value), `wrong` (entries), `diagnosis` (sentences), `verdict`.

    `print(report)` shows the table, `report.plot()` the curves, `report.as_dict()` is for JSON.
    """

    subject: str
    backend: str
    dtype: str
    arguments: list[Argument] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # what is wrong beyond numbers: a shape, a missing gradient
    diagnosis: list[str] = field(default_factory=list)  # what the wrong entries have in common
    notes: list[str] = field(default_factory=list)  # what a right gradient did not prove
    forward_error: float | None = None  # for an op without gradient: the relative difference from the definition

    @property
    def verdict(self) -> str:
        """The worst of the arguments' verdicts; "wrong" where there is a problem."""
        found = {a.verdict for a in self.arguments} | ({WRONG} if self.problems else set())
        return next((v for v in (WRONG, UNDECIDED, KINK) if v in found), OK)

    @property
    def ok(self) -> bool:
        """No problem, and every entry was found right, or without a derivative and backward between the two slopes."""
        return self.verdict in (OK, KINK)

    def __bool__(self) -> bool:
        """So that `assert cc.gradcheck(...)` does what it says."""
        return self.ok

    @property
    def max_error(self) -> float:
        """The largest relative error of any argument."""
        return max([a.error for a in self.arguments] + [self.forward_error or 0.0])

    @property
    def wrong(self) -> list[Wrong]:
        """The wrong entries, at most ten per argument."""
        return [w for a in self.arguments for w in a.wrong]

    @property
    def title(self) -> str:
        """One line: what was checked, and the verdict."""
        kinks = sum(len(a.kinks) for a in self.arguments)
        some = f", {_some(kinks)}" if self.verdict == OK and kinks else ""
        return f"gradcheck {self.subject}: {self.backend}, {self.dtype}: {_shown(self.verdict)}{some}"

    def __repr__(self) -> str:
        return f"<{self.title}>"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        lines = [self.title, *(f"  {problem}" for problem in self.problems)]
        if self.forward_error is not None:
            lines.append(f"  no gradient; forward differs from the definition by {self.forward_error:.1e}")
        if self.arguments:
            head = ("argument", "shape", "error", "falls as", "noticed from", "at step", "verdict")
            lines += _columns([head, *(_row(a) for a in self.arguments)])
        for a in self.arguments:
            lines += [f"  {w}" for w in a.wrong]
            if a.more:
                lines.append(f"  {a.name}: {_MORE if a.wrong else _SPREAD}")
            lines += [f"  {k}" for k in a.kinks[:SHOWN]]
            if len(a.kinks) > SHOWN:
                lines.append(f"  {a.name}: not differentiable at {len(a.kinks) - SHOWN} more entries, backward between")
            if a.reason:
                lines.append(f"  {a.name}: {a.reason}")
        lines += [f"  diagnosis: {text}" for text in self.diagnosis]
        lines += [f"  note: {text}" for text in self.notes]
        return "\n".join(lines + ([f"  ({text})" for text in LEGEND] if self.arguments else []))

    def as_dict(self) -> dict[str, Any]:
        """All of it in plain types, for JSON; numbers that JSON does not know (NaN, inf) become None."""
        return {
            "subject": self.subject,
            "backend": self.backend,
            "dtype": self.dtype,
            "ok": self.ok,
            "verdict": self.verdict,
            "max_error": _plain(self.max_error),
            "problems": self.problems,
            "diagnosis": self.diagnosis,
            "notes": self.notes,
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


_MORE = "there may be further wrong entries"
_SPREAD = "all entries together are wrong, each by too little to be named"


def _row(a: Argument) -> tuple[str, ...]:
    curve, shape = a.curve, "x".join(map(str, a.shape)) or ("" if a.verdict == CONSTANT else "scalar")
    verdict = _shown(a.verdict) + (f", {_some(len(a.kinks))}" if a.verdict == OK and a.kinks else "")
    if a.verdict == KINK or curve is None or curve.best is None:
        return a.name, shape, "", "", "", "", verdict
    falls = "stays" if a.verdict == WRONG else _order(curve.order)
    return a.name, shape, f"{a.error:.1e}", falls, f"{curve.resolution:.1e}", f"{curve.best.h:.1e}", verdict


def _order(order: float | None) -> str:
    """How an error falls: a smooth function's with h^2; over kinks it does so unevenly."""
    return "rounding" if order is None else f"h^{order:.1f}" if order > 1.5 else "kinks"


def _shown(verdict: str) -> str:
    """A verdict that calls for attention, in capitals."""
    return verdict.upper() if verdict in (WRONG, KINK, UNDECIDED) else verdict


def _some(kinks: int) -> str:
    return f"NOT DIFFERENTIABLE at {kinks} {'entry' if kinks == 1 else 'entries'}"


def _index(index: tuple[int, ...]) -> str:
    return str(list(index)) if index else ""


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "not compared"


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _argument(a: Argument) -> dict[str, Any]:
    curve = a.curve
    steps = curve.steps if curve else ()
    return {
        "name": a.name,
        "shape": list(a.shape),
        "verdict": a.verdict,
        "error": _plain(a.error),
        "resolution": _plain(curve.resolution) if curve else None,
        "steps": [{"h": s.h, "left": _plain(s.left), "right": _plain(s.right)} for s in steps],
        "wrong": [
            {"index": list(w.index), "analytic": _plain(w.analytic), "numeric": _plain(w.numeric)} for w in a.wrong
        ],
        "kinks": [{"index": list(k.index), "analytic": k.analytic, "left": k.left, "right": k.right} for k in a.kinks],
        "more": a.more,
        "unseen": a.unseen,
        "reason": a.reason,
    }
