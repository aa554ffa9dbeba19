"""How close is close enough? The verdict of gradcheck: it looks at how the error falls, not at how large it is.

Let f = sum(dy * y). Along a direction v, f(x + t v) is a function of one number t. Its slopes over a step h are

    right(h) = (f(x + h v) - f(x)) / h        slope(h) = (left + right) / 2 = true slope + c h^2 + rounding / h
    left(h)  = (f(x) - f(x - h v)) / h        bend(h) = right - left        = b h + rounding / h

A sweep computes these slopes for a sequence of steps h; each step is a quarter of the one before. The gradient g under
test claims that the slope is a = sum(g * v). If g is right, |slope(h) - a| falls 16-fold from step to step, until the
rounding of f, which grows as h shrinks, is larger than what is left. If g is wrong, |slope(h) - a| stays at the error
of a. Nothing about f has to be known beforehand: the computed slopes also tell how far each of them is from the true
slope.

    truncation(h)  the part of the error of slope(h) that falls as c h^2: the larger of |slope(4h) - slope(h)| / 15 and
                   |slope(h) - slope(h/4)| 16/15.
    kink(h)        the larger of |bend(h) - bend(4h) / 4| and |bend(h/4) - bend(h) / 4|, less the rounding of the bends.
                   The bend of a smooth f falls in proportion to h, so kink(h) is small. A kink between x - 4 h v and
                   x + 4 h v (a ReLU changes its side, a maximum changes its winner) adds a bend that falls otherwise.
    rounding(h)    e / h, where e is the scatter |slope(4h) - slope(h)| h at the smallest steps. rounding(h) is never
                   less than the effect of the last bits of y.
    tolerance(h) = 8 (truncation + kink + rounding) + 1e-10 of the slope's size + the rounding of g itself, if float32

The step with the smallest tolerance decides:

    WRONG        |slope - a| > tolerance: the slopes still converge, but not to a.
    CANNOT TELL  The tolerance, without the rounding of g, is above 0.05 % of the slope's size. Then f is too rough or
                 too noisy to show an error of 0.1 %, and gradcheck does not pass a gradient on such evidence.
    ok           otherwise. The error of a right gradient is at most an eighth of the tolerance.

The slope's size is the Euclidean length of the terms (g_i v_i): a sum of such terms with random signs is about that
large. If g is zero this length is 0, and 10^-6 of f, or of the slopes over the largest step, replaces it.

A curve is `coarse` if a kink makes its tolerance too large to show an error of 0.1 % in one typical entry. Then a kink
lies closer to x than the smallest step. gradcheck looks at smaller and smaller groups of the entries, down to single
ones. For a single entry `one_sided` reads the slope on either side of x. If the two slopes differ, f has no derivative
there, and gradcheck accepts every value between them.
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
MOST = 24  # steps of a sweep that goes on because kinks are near: down to 2e-15
ENOUGH = 3  # steps that a verdict needs: the deciding one and its two neighbours
SAFETY = 8.0
RESOLUTION = 5e-4

OK, WRONG, KINK, UNDECIDED = "ok", "wrong", "not differentiable", "cannot tell"


@dataclass(frozen=True)
class Step:
    """The slopes over one step h, left and right of x. `size` is the Euclidean length of those terms of f that changed
    with the step."""

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
        """The error of the slope that comes from rounding y to its last bits."""
        return EPS * self.size / self.h


@dataclass(frozen=True)
class Claim:
    """What the gradient g under test says of one direction v."""

    slope: float  # sum(g * v)
    length: float  # the Euclidean length of the terms g_i v_i
    count: int  # how many of these terms are not 0
    noise: float  # how much of the slope may come from the rounding of g

    @property
    def own(self) -> float:
        """The error that is allowed to every gradient: rounding in the sum of its terms."""
        return 1e-10 * (abs(self.slope) + self.length)

    @property
    def typical(self) -> float:
        """The size of one term."""
        return self.length / math.sqrt(max(self.count, 1))

    @property
    def wanted(self) -> float:
        """The tolerance at which an error of 0.1 % in one entry shows, if its term is at least a tenth of `typical`."""
        return max(0.1 * RESOLUTION * self.typical, 2 * self.own)


@dataclass(frozen=True)
class Curve:
    """The steps along one direction, and the verdict that follows from them."""

    steps: tuple[Step, ...]
    claim: Claim
    verdict: str
    best: Step | None = None  # the step that decided
    tolerance: float = math.inf
    scale: float = 0.0  # the slope's size, which errors are relative to
    scatter: float = 0.0  # the part of the slope that is rounding, times h
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
        """The error falls as h to this power, at steps where rounding is small; None if the error is all rounding."""
        falls = []
        for large, small in itertools.pairwise(self.usable):
            before, after = abs(large.slope - self.analytic), abs(small.slope - self.analytic)
            if after > 30 * small.bits and self.best is not None and small.h > self.best.h:
                falls.append(math.log(before / after) / math.log(large.h / small.h) if before else 0.0)
        return sorted(falls)[len(falls) // 2] if falls else None


def usable(steps: Sequence[Step], analytic: float) -> list[Step]:
    """The finite steps, without those at the end that are too small to change the rounded y.

    Such steps are left out only if the claimed slope is not 0 and y changed on both sides of x at a larger step. (If y
    changed on one side alone, x lies on the flat side of a kink, and the steps without a change are right.)
    """
    used = [s for s in steps if s.finite]
    moved = [s for s in used if s.size > 0]
    stopped = analytic != 0 and moved and moved[-1] is not used[-1] and moved[-1].left != 0 and moved[-1].right != 0
    return moved if stopped else used


def judge(steps: list[Step], claim: Claim, like: Curve | None = None) -> Curve:
    """The verdict on a claimed slope.

    like: a sweep over other entries of the same argument. It supplies what a few steps do not show: the scatter, and a
        size where the slope is 0. If its tolerance was much smaller than the one found here, the curve is coarse.
    """
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
    around = max(abs(used[0].left), abs(used[0].right))  # over the largest step: at a jump, slopes grow as h falls
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
    """The slopes on either side of x, and the tolerance of both."""

    left: float
    right: float
    tolerance: float

    @property
    def differ(self) -> bool:
        return abs(self.right - self.left) > 20 * self.tolerance

    @property
    def sharp(self) -> bool:
        """Whether the slopes differ so clearly that smaller steps cannot bring them together."""
        return abs(self.right - self.left) > 1e7 * self.tolerance

    def holds(self, a: float) -> bool:
        """Whether `a` lies between the two slopes."""
        low, high = sorted((self.left, self.right))
        return low - self.tolerance <= a <= high + self.tolerance


def one_sided(curve: Curve) -> Sides | None:
    """The slopes on either side of x, or None if there are too few steps.

    On a side without a kink, the secant over a step h is slope + c h + ..., so two secants give the slope by
    extrapolation. The next pair of secants gives it once more, and the difference of the two results is its error.
    """
    used = curve.usable
    if len(used) < ENOUGH:
        return None
    (left, left_error), (right, right_error) = (
        _limit([(step.h, secant, step.bits) for step, secant in zip(used, secants, strict=True)])
        for secants in ([s.left for s in used], [s.right for s in used])
    )
    return Sides(left, right, max(left_error, right_error) + curve.claim.own + curve.claim.noise)


def _limit(secants: list[tuple[float, float, float]]) -> tuple[float, float]:
    """The limit of the secants for h -> 0, and its error, from those entries (h, secant, rounding) that agree best."""
    guesses = [(p * b - q * a) / (p - q) for (p, a, _), (q, b, _) in itertools.pairwise(secants)]
    errors = [
        SAFETY * (abs(a - b) + bits)
        for (a, b), (_, _, bits) in zip(itertools.pairwise(guesses), secants[2:], strict=True)
    ]
    k = errors.index(min(errors))
    return guesses[k + 1], errors[k]


def _ratio(error: float, scale: float) -> float:
    return error / scale if scale else (math.inf if error else 0.0)
