"""How close is close enough? The verdict of gradcheck: it looks at how the error falls, not at how large it is.

Along one direction v, f(x + t v) is a function of one number t, with f = sum(dy * y). Its slopes over a step h are

    right(h) = (f(x + h v) - f(x)) / h        slope(h) = (left + right) / 2 = true slope + c h^2 + rounding / h
    left(h)  = (f(x) - f(x - h v)) / h        bend(h) = right - left        = b h + rounding / h

for steps h, each a quarter of the one before. The gradient g under test claims the slope a = sum(g * v). If g is right,
|slope(h) - a| falls 16-fold a step until the rounding of f, which grows as h shrinks, takes over. If g is wrong,
|slope(h) - a| stays at the error of a. Nothing has to be known of f beforehand. The slopes alone tell how far each of
them still is from the true one:

    truncation(h)  the larger of |slope(4h) - slope(h)| / 15 and |slope(h) - slope(h/4)| 16/15: what c h^2 leaves at h
    kink(h)        the larger of |bend(h) - bend(4h) / 4| and |bend(h/4) - bend(h) / 4|, less their rounding. The bend
                   of a smooth f falls with h, so that kink(h) is small. A kink between x - 4 h v and x + 4 h v (a ReLU
                   that changes its side, a maximum that changes its winner) adds a bend that does not fall so.
    rounding(h)    e / h. e is the scatter |slope(4h) - slope(h)| h seen at the smallest steps, and never less than what
                   the last bits of y do.
    tolerance(h) = 8 (truncation + kink + rounding) + 1e-10 of the slope's size + the rounding of g itself, if float32

The step with the smallest tolerance decides:

    WRONG        |slope - a| > tolerance: a has stopped agreeing where the slope still converges.
    CANNOT TELL  the tolerance (less g's own rounding) is above 0.05 % of the slope's size: f is too rough or too noisy
                 to find an error of 0.1 %, so a gradient is never passed on such evidence.
    ok           otherwise. A right gradient is within an eighth of what is allowed.

The slope's size is the length of (g_i v_i), which is what a sum of theirs comes to with random signs. A gradient of
zero has no size of its own; 10^-6 of f, or of the slopes over the largest step, takes its place.

A curve is `coarse` where its tolerance is too large for 0.1 % of one typical entry, and a kink is the reason: a kink
lies closer to x than the smallest step. The entries are then looked at in smaller groups, at last one by one. There
`one_sided` reads the slope on either side: where they differ, f has no derivative, and every value between is accepted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

EPS = 2.0**-52
RATIO = 4.0
FIRST = 2.0**-3
COUNT = 10  # steps of a sweep: down to 5e-7
MOST = 24  # with further, smaller steps where kinks are near: down to 2e-15
ENOUGH = 3  # steps that a verdict needs: one, and its two neighbours
SAFETY = 8.0
RESOLUTION = 5e-4

OK, WRONG, KINK, UNDECIDED = "ok", "wrong", "not differentiable", "cannot tell"


@dataclass(frozen=True)
class Step:
    """The slopes over one step on both sides of x. `size` is the length of f's terms that changed with the step."""

    h: float
    left: float
    right: float
    size: float

    @property
    def slope(self) -> float:
        return (self.left + self.right) / 2

    @property
    def bend(self) -> float:
        return self.right - self.left

    @property
    def finite(self) -> bool:
        return math.isfinite(self.left) and math.isfinite(self.right)

    @property
    def bits(self) -> float:
        """What the last bits of y do to the slope."""
        return EPS * self.size / self.h


@dataclass(frozen=True)
class Claim:
    """What the gradient under test says of one direction: the slope, the length and number of its terms g_i v_i that
    are not 0, and how much of the slope may be rounding of g itself."""

    slope: float
    length: float
    count: int
    noise: float

    @property
    def own(self) -> float:
        """What is allowed to every gradient: the last digits of its own sums."""
        return 1e-10 * (abs(self.slope) + self.length)

    @property
    def typical(self) -> float:
        """The size of one term."""
        return self.length / math.sqrt(max(self.count, 1))

    @property
    def wanted(self) -> float:
        """The tolerance that shows an error of 0.1 % in one entry, if its term is at least a tenth of the typical."""
        return max(0.1 * RESOLUTION * self.typical, 2 * self.own)


@dataclass(frozen=True)
class Curve:
    """One direction's steps and what follows from them."""

    steps: tuple[Step, ...]
    claim: Claim
    verdict: str
    best: Step | None = None  # the step that decided
    tolerance: float = math.inf
    scale: float = 0.0  # the slope's size, which errors are relative to
    scatter: float = 0.0  # rounding's part of the slope, times h
    coarse: bool = False

    @property
    def analytic(self) -> float:
        return self.claim.slope

    @property
    def settled(self) -> bool:
        """Whether smaller groups of entries would show nothing more."""
        return self.verdict == OK and not self.coarse

    @property
    def error(self) -> float:
        """|slope - a| at the deciding step, relative to the slope's size; NaN where there is none, inf for NaN in g."""
        if not math.isfinite(self.analytic):
            return math.inf
        return math.nan if self.best is None else _ratio(abs(self.best.slope - self.analytic), self.scale)

    @property
    def resolution(self) -> float:
        """The smallest relative error that would have been called wrong."""
        return math.nan if self.best is None else _ratio(self.tolerance, self.scale)

    @property
    def usable(self) -> list[Step]:
        return usable(self.steps, self.analytic)

    @property
    def order(self) -> float | None:
        """The power of h that the error falls with, over the steps before rounding; None where it is rounding alone."""
        falls = []
        for large, small in itertools.pairwise(self.usable):
            before, after = abs(large.slope - self.analytic), abs(small.slope - self.analytic)
            if after > 30 * small.bits and self.best is not None and small.h > self.best.h:
                falls.append(math.log(before / after) / math.log(large.h / small.h) if before else 0.0)
        return sorted(falls)[len(falls) // 2] if falls else None


def usable(steps: Sequence[Step], analytic: float) -> list[Step]:
    """The finite steps. Left out are those at the end where y no longer moves, if a slope is claimed and y moved on
    both sides of x before: there y is rounded more coarsely than the step. (Where y moved on one side alone, x is on
    the flat side of a kink.)"""
    used = [s for s in steps if s.finite]
    moved = [s for s in used if s.size > 0]
    stopped = analytic != 0 and moved and moved[-1] is not used[-1] and moved[-1].left != 0 and moved[-1].right != 0
    return moved if stopped else used


def judge(steps: list[Step], claim: Claim, like: Curve | None = None) -> Curve:
    """The verdict on a claimed slope. `like` is a sweep over other entries of the same argument: three steps cannot see
    the scatter by themselves, an entry whose slope is 0 has no size, and where that sweep knew more this is coarse."""
    a = claim.slope
    if not math.isfinite(a):
        return Curve(tuple(steps), claim, WRONG)
    used = usable(steps, a)
    if len(used) < ENOUGH:
        return Curve(tuple(steps), claim, UNDECIDED)
    seen = max(abs(p.slope - q.slope) * q.h for p, q in list(itertools.pairwise(used))[-3:])
    scatter = seen if like is None else max(like.scatter, seen)
    best, tolerance, blame = used[1], math.inf, 0.0
    for large, step, small in zip(used, used[1:], used[2:], strict=False):
        up, down = large.h / step.h, step.h / small.h
        left = max(abs(large.slope - step.slope) / (up**2 - 1), abs(step.slope - small.slope) * down**2 / (down**2 - 1))
        noise = 2 * max(scatter / small.h, small.bits)
        kink = max(abs(step.bend - large.bend / up), abs(small.bend - step.bend / down)) - noise
        kink = SAFETY * max(kink, 0.0)
        found = SAFETY * (left + max(scatter / step.h, step.bits)) + kink + claim.own + claim.noise
        if found < tolerance:
            best, tolerance, blame = step, found, kink
    around = max(abs(used[0].left), abs(used[0].right))  # over the largest step: a jump's grow as steps fall
    scale = max(claim.length, abs(best.slope), 1e-6 * best.size, 1e-6 * around, like.claim.typical if like else 0.0)
    wanted = max(claim.wanted, like.claim.wanted if like else 0.0)
    beyond = tolerance - claim.noise
    if not abs(best.slope - a) <= tolerance:
        verdict = WRONG
    elif beyond > max(RESOLUTION * scale, claim.noise):
        verdict = UNDECIDED
    else:
        verdict = OK
    vague = like is not None and tolerance > 2 * like.tolerance
    coarse = beyond > wanted and (blame > tolerance / 4 or vague)
    return Curve(tuple(steps), claim, verdict, best, tolerance, scale, scatter, coarse)


@dataclass(frozen=True)
class Sides:
    """The slopes on either side of x, and how well they are known."""

    left: float
    right: float
    tolerance: float

    @property
    def differ(self) -> bool:
        return abs(self.right - self.left) > 20 * self.tolerance

    @property
    def sharp(self) -> bool:
        """Whether the slopes differ by so much more than their errors that no smaller step can join them."""
        return abs(self.right - self.left) > 1e7 * self.tolerance

    def holds(self, a: float) -> bool:
        """Whether `a` lies between the two slopes."""
        low, high = sorted((self.left, self.right))
        return low - self.tolerance <= a <= high + self.tolerance


def one_sided(curve: Curve) -> Sides | None:
    """The slopes on either side of x, or None where there are too few steps. A secant over a side without a kink is
    slope + c h + ..., so that two of them give the slope; the next two tell how well."""
    used = curve.usable
    if len(used) < ENOUGH:
        return None
    (left, left_error), (right, right_error) = (
        _limit([(step.h, secant, step.bits) for step, secant in zip(used, secants, strict=True)])
        for secants in ([s.left for s in used], [s.right for s in used])
    )
    return Sides(left, right, max(left_error, right_error) + curve.claim.own + curve.claim.noise)


def _limit(secants: list[tuple[float, float, float]]) -> tuple[float, float]:
    """The limit of (h, secant, rounding) for h -> 0, and its error, where the secants agree best."""
    guesses = [(p * b - q * a) / (p - q) for (p, a, _), (q, b, _) in itertools.pairwise(secants)]
    errors = [
        SAFETY * (abs(a - b) + bits)
        for (a, b), (_, _, bits) in zip(itertools.pairwise(guesses), secants[2:], strict=True)
    ]
    k = errors.index(min(errors))
    return guesses[k + 1], errors[k]


def _ratio(error: float, scale: float) -> float:
    return error / scale if scale else (math.inf if error else 0.0)
