"""How close is close enough? The verdict of gradcheck: it looks at how the error falls, not at how large it is.

Along one direction v, with f(x) = sum(dy * y) and a = sum(g * v) the slope that the gradient g under test claims,

    d(h) = (f(x + h v) - f(x - h v)) / 2h = true slope + c h^2 + rounding / h

is computed for ten steps h, each a quarter of the one before. If g is right, |d(h) - a| falls 16-fold a step until the
rounding of f, which grows as h shrinks, takes over; if f is linear there is rounding alone. If g is wrong, |d(h) - a|
falls until it meets the error of a, and stays there. Nothing has to be known of f or a beforehand: the d(h) alone tell
how far each of them still is from the true slope,

    truncation(h)  the larger of |d(4h) - d(h)| / 15 and |d(h) - d(h/4)| 16/15: what c h^2 leaves at h
    rounding(h)    e / h, where e is the scatter |d(4h) - d(h)| h seen at the smallest steps, and never less than what
                   the last bits of y and x can do
    tolerance(h) = 8 (truncation + rounding) + 1e-10 of the slope's size + the rounding of g itself, if it is float32

and the step with the smallest tolerance decides:

    wrong       |d - a| > tolerance: a has stopped agreeing where d still converges.
    undecided   the tolerance (less g's own rounding) is above 0.05 % of the slope's size: f is too rough or too noisy
                to find an error of 0.1 %, so a gradient is never passed on such evidence.
    ok          otherwise. A right gradient is within truncation + rounding of d, an eighth of what is allowed. A
                gradient that is 0.1 % off is at least twice the allowance away, and in practice 10^5 times.
    kink        fewer than three steps are left (see below).

The slope's size is the length of (g_i v_i), which is what a sum of theirs comes to with random signs; or 10^-6 of f
itself where that is more (a gradient of zero has no size of its own).

A step is left out where x + h v and x - h v lie on two sides of a kink, and only where that is certain: a choice that
the forward saved (a max's winner, a relu's mask) differs between them. Smaller steps then decide.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

EPS = 2.0**-52
RATIO = 4.0
FIRST = 2.0**-3
COUNT = 10  # steps of a sweep: down to 5e-7
MORE = 5  # further, smaller steps where kinks took the large ones: down to 5e-10
ENOUGH = 3  # steps that a verdict needs: one, and its two neighbours
SAFETY = 8.0
RESOLUTION = 5e-4

OK, KINK, UNDECIDED, WRONG = "ok", "kink", "undecided", "wrong"


@dataclass(frozen=True)
class Step:
    """The central difference d(h). `size` is the sum of magnitudes whose last bits are d's rounding, times 2h."""

    h: float
    slope: float
    size: float
    crossed: bool = False


@dataclass(frozen=True)
class Curve:
    """One direction's sweep and what follows from it."""

    steps: tuple[Step, ...]
    analytic: float
    verdict: str
    best: Step | None = None  # the step that decided
    tolerance: float = math.inf
    scale: float = 0.0  # the slope's size, which errors are relative to
    noise: float = 0.0
    scatter: float = 0.0  # rounding's part of d(h), times h

    @property
    def error(self) -> float:
        """|d - a| at the deciding step, relative to the slope's size; NaN where there is none, inf for a NaN in g."""
        if not math.isfinite(self.analytic):
            return math.inf
        return math.nan if self.best is None else _ratio(abs(self.best.slope - self.analytic), self.scale)

    @property
    def resolution(self) -> float:
        """The smallest relative error that would have been called wrong."""
        return math.nan if self.best is None else _ratio(self.tolerance, self.scale)

    @property
    def usable(self) -> list[Step]:
        return [s for s in self.steps if not s.crossed and math.isfinite(s.slope)]

    @property
    def order(self) -> float | None:
        """The power of h that the error falls with, over the steps before rounding; None where it is rounding alone."""
        falls = []
        for large, small in itertools.pairwise(self.usable):
            before, after = abs(large.slope - self.analytic), abs(small.slope - self.analytic)
            if after > 30 * _bits(small) and self.best is not None and small.h > self.best.h:
                falls.append(math.log(before / after) / math.log(large.h / small.h) if before else 0.0)
        return sorted(falls)[len(falls) // 2] if falls else None


def judge(steps: list[Step], analytic: float, length: float, noise: float, scatter: float = 0.0) -> Curve:
    """The verdict on a slope from a sweep; `length` is that of (g_i v_i), `noise` the rounding of the slope itself,
    `scatter` the least to be assumed (a sweep of three steps cannot see it by itself)."""
    if not math.isfinite(analytic):
        return Curve(tuple(steps), analytic, WRONG)
    curve = Curve(tuple(steps), analytic, KINK if any(s.crossed for s in steps) else UNDECIDED, noise=noise)
    used = curve.usable
    if len(used) < ENOUGH:
        return curve
    seen = max(abs(a.slope - b.slope) * b.h for a, b in list(itertools.pairwise(used))[-3:])
    scatter = max(scatter, seen)
    own = 1e-10 * (abs(analytic) + length)
    best, tolerance = used[1], math.inf
    for large, step, small in zip(used, used[1:], used[2:], strict=False):
        up, down = (large.h / step.h) ** 2, (step.h / small.h) ** 2
        left = max(abs(large.slope - step.slope) / (up - 1), abs(step.slope - small.slope) * down / (down - 1))
        found = SAFETY * (left + max(scatter / step.h, _bits(step))) + own + noise
        if found < tolerance:
            best, tolerance = step, found
    scale = max(length, abs(best.slope), 1e-6 * best.size)
    if not abs(best.slope - analytic) <= tolerance:
        verdict = WRONG
    elif tolerance - noise > max(RESOLUTION * scale, noise):
        verdict = UNDECIDED
    else:
        verdict = OK
    return Curve(tuple(steps), analytic, verdict, best, tolerance, scale, noise, scatter)


def _bits(step: Step) -> float:
    """What the last bits of y and x do to d(h)."""
    return EPS * step.size / step.h


def _ratio(error: float, scale: float) -> float:
    return error / scale if scale else (math.inf if error else 0.0)
