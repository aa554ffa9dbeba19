"""The search of gradcheck: it compares the gradient of one argument with slopes of f, down to single entries if needed.

1. Two directions move all entries of the argument at once, whatever its size. The first has the signs of the gradient
   under test, so that a wrong factor shows at full strength. The second has random signs. Every entry moves by a
   similar amount in both, and the error is compared with rounding, not with the size of the whole gradient. So one
   wrong pixel among a million right ones is found. The first direction is swept over all steps. The second direction
   uses the three steps that decided the first; if they do not settle it, it gets a sweep of its own.
2. A direction that is not settled is cut into halves, and the halves again, down to single entries. This takes
   2 log2(n) directions for a wrong entry, where trying every entry takes n. Only a sweep over a single entry can call
   that entry wrong, or find that f has no derivative there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .gradcheck_curve import (
    COUNT,
    ENOUGH,
    FIRST,
    KINK,
    MOST,
    OK,
    RATIO,
    SAFETY,
    UNDECIDED,
    WRONG,
    Claim,
    Curve,
    Step,
    judge,
    one_sided,
)
from .gradcheck_report import EMPTY, Argument, Kink, Wrong

NAMED = 10  # the search ends when it has found so many wrong entries of an argument
MOST_GROUPS = 2000  # the search ends when it has looked at so many groups of entries
HOPELESS = 5  # the search ends when it cannot judge so many single entries
SHARPEST = 2.0**-36  # the smallest move of an entry, relative to its size: its last 16 bits move


@dataclass
class Problem:
    """f = sum(dy * y) as a function of one argument, in float64."""

    outputs: Callable[[tuple], np.ndarray]  # all of y, as one flat array
    arrays: tuple
    dy: np.ndarray  # flat, like y
    gap: float = math.inf  # no step moves an entry by more than half of the gap
    base: np.ndarray = field(init=False)  # y at x

    def __post_init__(self) -> None:
        self.base = self.outputs(self.arrays)

    def step(self, i: int, v: np.ndarray, h: float, g: np.ndarray, slope: float) -> Step:
        """The slopes between x - h v, x and x + h v.

        Rounding lets an entry of x move by a little more or less than h v. Therefore the change of f that g predicts
        for the actual move is subtracted from the measured change, and the claimed slope is added afterwards. So the
        rounding of x has no effect on the comparison with g.
        """
        x = self.arrays[i]
        change, changed = [], []
        for move in (h, -h):
            moved = x + move * v
            y = self.outputs((*self.arrays[:i], moved, *self.arrays[i + 1 :]))
            dots = float(np.dot(self.dy, y - self.base)) - float(np.vdot(g, moved - x))
            change.append(slope + dots / move)
            changed.append(np.where(y == self.base, 0.0, y))
        size = _length(self.dy * np.maximum(*map(np.abs, changed)))
        return Step(h, change[1], change[0], size)

    def limits(self, i: int, v: np.ndarray) -> tuple[float, float]:
        """The largest and the smallest step along v."""
        moved = v != 0
        moves, x = np.abs(v[moved]), np.abs(self.arrays[i][moved])
        return min(FIRST, self.gap / (2 * moves.max())), float((SHARPEST * x / moves).max())

    def claim(self, v: np.ndarray, g: np.ndarray, noise: np.ndarray) -> Claim:
        moved = v != 0
        terms = g[moved] * v[moved]
        slope = float(terms.sum())
        rounding = _length(noise[moved] * v[moved]) + (4 * 2.0**-23 * abs(slope) if noise.any() else 0)
        return Claim(slope, _length(terms), int(np.count_nonzero(terms)), rounding)

    def sweep(self, i: int, v: np.ndarray, g: np.ndarray, noise: np.ndarray) -> Curve:
        """The curve over all steps, with its verdict. Smaller steps follow as long as the tolerance is too large and a
        smaller step can still lower it."""
        claim, g = self.claim(v, g, noise), np.where(v == 0, 0.0, g)
        if not math.isfinite(claim.slope):
            return judge([], claim)
        h, least = self.limits(i, v)
        steps: list[Step] = []
        curve = judge(steps, claim)
        while len(steps) < COUNT or (
            len(steps) < MOST
            and h > least
            and curve.tolerance - claim.noise > claim.wanted
            and not SAFETY * steps[-1].bits * RATIO >= curve.tolerance  # NaN where y is, beside x
        ):
            steps.append(self.step(i, v, h, g, claim.slope))
            h /= RATIO
            if len(steps) >= COUNT:
                curve = judge(steps, claim)
        return curve

    def glance(self, i: int, v: np.ndarray, g: np.ndarray, noise: np.ndarray, like: Curve) -> Curve:
        """The curve over three steps alone: those that decided `like`, the sweep of another direction."""
        claim, g = self.claim(v, g, noise), np.where(v == 0, 0.0, g)
        if like.best is None or not math.isfinite(claim.slope):
            return judge([], claim)
        most, least = self.limits(i, v)
        h = min(max(RATIO * like.best.h, least * RATIO**2), most)
        steps = [self.step(i, v, h / RATIO**k, g, claim.slope) for k in range(3)]
        return judge(steps, claim, like)


def _length(a: np.ndarray) -> float:
    """The Euclidean norm. The entries are scaled first, since their squares may overflow or underflow."""
    most = float(np.abs(a).max(initial=0.0))
    return most * float(np.linalg.norm(a / most)) if 0 < most < math.inf else most


def weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random signs and magnitudes between 0.5 and 1.5: every entry has a weight, and no two weights cancel exactly."""
    return np.asarray(rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape))


def sizes(x: np.ndarray) -> np.ndarray:
    """How far each entry moves: by its magnitude, but at least by the median magnitude. (An entry that happens to be
    small does not make f vary on a smaller scale.)"""
    magnitudes = np.abs(x)
    middle = float(np.median(magnitudes[magnitudes > 0])) if magnitudes.any() else 1.0
    return np.maximum(magnitudes, middle)


def check_argument(
    problem: Problem, i: int, g: np.ndarray, noise: np.ndarray, rng: np.random.Generator, found: Argument
) -> None:
    """Judge the gradient g of argument i and enter the verdict in `found`. noise: the rounding of each entry of g."""
    if g.size == 0:
        found.verdict = EMPTY
        return
    size = sizes(problem.arrays[i])
    random = size * weights(rng, g.shape)
    along = np.where(g == 0, random, np.copysign(size * np.abs(weights(rng, g.shape)), g))
    first = problem.sweep(i, along, g, noise)
    second = problem.glance(i, random, g, noise, first)
    if not second.settled:
        second = problem.sweep(i, random, g, noise)
    found.curves = (first, second)
    if first.settled and second.settled:
        found.verdict = OK
        return
    search = _Search(problem, i, g, noise, found)
    search.split(along, first) if not first.settled else search.split(random, second)
    if WRONG in (first.verdict, second.verdict) and not (found.wrong or found.kinks or found.more):
        _confirm(problem, i, g, noise, rng, size, found)


def _confirm(
    problem: Problem, i: int, g: np.ndarray, noise: np.ndarray, rng: np.random.Generator, size: np.ndarray,
    found: Argument,
) -> None:  # fmt: skip
    """Decide what to do where all entries together were wrong but no single entry was.

    Either every entry is slightly wrong, or the first verdict was chance. Two new directions decide.
    """
    curves = tuple(problem.sweep(i, size * weights(rng, g.shape), g, noise) for _ in range(2))
    if all(curve.verdict == WRONG for curve in curves):
        found.verdict, found.curves, found.more = WRONG, curves, True


@dataclass
class _Search:
    """A search by halves of a direction, and what it has found."""

    problem: Problem
    i: int
    g: np.ndarray
    noise: np.ndarray
    found: Argument
    compared: int = 0  # entries that are right
    right: tuple[Curve, ...] = ()  # the first curve of a group that is right
    reasons: list[str] = field(default_factory=list)  # why single entries could not be judged

    def split(self, v: np.ndarray, whole: Curve) -> None:
        """Set `found.verdict`: cut v into halves, and every half that is not settled again."""
        pending, groups = [np.arange(v.size)], 0
        while pending and groups < MOST_GROUPS and len(self.found.wrong) < NAMED and len(self.reasons) < HOPELESS:
            group = pending.pop()
            groups += 1
            only = np.zeros(v.shape)
            only.flat[group] = v.flat[group] if group.size > 1 else abs(v.flat[group])
            curve = whole if group.size == v.size > 1 else self.problem.glance(self.i, only, self.g, self.noise, whole)
            if curve.settled:
                self.settle(group.size, curve)
            elif group.size > 1:
                pending += [group[group.size // 2 :], group[: group.size // 2]]
            else:
                index = tuple(int(n) for n in np.unravel_index(group[0], v.shape))
                self.single(index, float(only[index]), curve)
        found = self.found
        found.more = bool(pending)
        found.unseen = sum(group.size for group in pending)
        if found.wrong:
            found.verdict = WRONG
        elif self.reasons or pending:
            found.verdict, found.reason = UNDECIDED, self.reasons[0] if self.reasons else _many(found)
        else:
            found.verdict = OK if self.compared else KINK
            found.curves = self.right or found.curves

    def settle(self, entries: int, curve: Curve) -> None:
        self.compared += entries
        self.right = self.right or (curve,)

    def single(self, index: tuple[int, ...], move: float, curve: Curve) -> None:
        """Judge one entry: right, wrong, at a kink, or none of these because f is too rough or too noisy."""
        name, a = self.found.name, float(self.g[index])
        v = np.zeros(self.g.shape)
        v[index] = move
        if not math.isfinite(a):
            shown = self.problem.sweep(self.i, v, np.zeros(self.g.shape), self.noise)
            self.found.wrong.append(Wrong(name, index, a, _slope(shown, move)))
            return
        sides = one_sided(curve)
        if sides is None or not (sides.sharp and sides.holds(curve.analytic)):
            curve = self.problem.sweep(self.i, v, self.g, self.noise)
            sides = one_sided(curve)
        if curve.settled:
            self.settle(1, curve)
        elif sides is not None and sides.differ and (curve.coarse or sides.sharp):
            left, right = (_or_zero(slope, sides.tolerance) / move for slope in (sides.left, sides.right))
            if sides.holds(curve.analytic):
                self.found.kinks.append(Kink(name, index, a, left, right))
            else:
                nearer = min(left, right, key=lambda slope: abs(slope - a))
                self.found.wrong.append(Wrong(name, index, a, nearer, (left, right)))
        elif curve.verdict == WRONG and self.wrong_by_itself(v, curve):
            self.found.wrong.append(Wrong(name, index, a, _slope(curve, move)))
        elif curve.verdict != UNDECIDED:
            self.settle(1, curve)
        else:
            self.reasons.append(_why(curve))

    def wrong_by_itself(self, v: np.ndarray, curve: Curve) -> bool:
        """Whether a wrong entry is also wrong at steps of its own magnitude.

        An entry of 1e-6 among others of size 1 is moved by steps that suit the others. Over such large steps f may
        already be constant, though its slope at the entry is right.
        """
        own = np.minimum(v, np.abs(self.problem.arrays[self.i]))
        return (
            own.max() >= v.max() or not own.any() or self.problem.sweep(self.i, own, self.g, self.noise).verdict != OK
        )


def _slope(curve: Curve, move: float) -> float:
    return math.nan if curve.best is None else _or_zero(curve.best.slope, curve.tolerance) / move


def _or_zero(slope: float, error: float) -> float:
    """The slope, or 0 where it is no larger than its error: a report shall not print rounding."""
    return 0.0 if abs(slope) <= error else slope


def _why(curve: Curve) -> str:
    """Why gradcheck cannot judge a single entry, and what the user can do."""
    used = curve.usable
    if len(used) < ENOUGH:
        return "y is NaN or Inf beside x: choose another x"
    first, last = (max(abs(step.left), abs(step.right)) for step in (used[0], used[-1]))
    if last > 50 * first:
        return "the slope grows as the step falls: f jumps here or has an infinite slope; choose another x"
    return "f is too noisy: all of it must be computed in float64, without rounding and without randomness"


def _many(found: Argument) -> str:
    return (
        f"{found.unseen} more entries lie at or beside kinks (or ties of a maximum) and were not looked at; "
        "check at another point, say x + 0.01 * rng.standard_normal(x.shape)"
    )
