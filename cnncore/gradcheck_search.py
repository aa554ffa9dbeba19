"""The search of gradcheck: one argument's gradient against slopes of f, down to single entries where that is needed.

1. Two directions move all entries of the argument at once, whatever its size. One follows the signs of the gradient
   under test, so that a wrong factor shows at full strength; one has random signs. No entry of either is small, and the
   error is held against rounding, not against the whole gradient, so that one wrong pixel in a million right ones is
   seen. The first direction is swept over all steps. The second needs the three steps that decided the first, or a
   sweep of its own.
2. A direction that is not settled is cut into halves, again and again, until single entries are left: 2 log2(n)
   directions per wrong entry instead of n for all. Only a sweep over a single entry calls that entry wrong, or finds
   that f has no derivative there.
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

NAMED = 10  # wrong entries named per argument
PARTS = 2000  # parts of one argument looked at
HOPELESS = 5  # single entries that cannot be told, after which no more are tried
SHARPEST = 2.0**-36  # the smallest move of an entry, relative to its size: its last 16 bits move


@dataclass
class Problem:
    """f = sum(dy * y) as a function of one argument, in float64. `outputs` gives all of y as one flat array."""

    outputs: Callable[[tuple], np.ndarray]
    arrays: tuple
    dy: np.ndarray  # flat, as the outputs
    gap: float = math.inf  # no step moves an entry by more than half of it
    base: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.base = self.outputs(self.arrays)

    def step(self, i: int, v: np.ndarray, h: float, g: np.ndarray, slope: float) -> Step:
        """The slopes at x - h v, x, x + h v. An entry moves by what its last bits allow; the claim g for just that move
        is taken from the change of f, and the claim for the whole step added again: so the bits of x do not matter."""
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
        """The curve over all steps, judged; smaller steps follow while these are not enough and can still tell more."""
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
        """The curve over the three steps that decided another direction."""
        claim, g = self.claim(v, g, noise), np.where(v == 0, 0.0, g)
        if like.best is None or not math.isfinite(claim.slope):
            return judge([], claim)
        most, least = self.limits(i, v)
        h = min(max(RATIO * like.best.h, least * RATIO**2), most)
        steps = [self.step(i, v, h / RATIO**k, g, claim.slope) for k in range(3)]
        return judge(steps, claim, like)


def _length(a: np.ndarray) -> float:
    """The Euclidean norm, also of what has no square in float64."""
    most = float(np.abs(a).max(initial=0.0))
    return most * float(np.linalg.norm(a / most)) if 0 < most < math.inf else most


def weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random signs, magnitudes between 0.5 and 1.5: no entry counts little, and no two cancel."""
    return np.asarray(rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape))


def sizes(x: np.ndarray) -> np.ndarray:
    """How far each entry may move: by its own size, but at least by that of the middle one, since an entry that happens
    to be small has no smaller scale for that."""
    magnitudes = np.abs(x)
    middle = float(np.median(magnitudes[magnitudes > 0])) if magnitudes.any() else 1.0
    return np.maximum(magnitudes, middle)


def check_argument(
    problem: Problem, i: int, g: np.ndarray, noise: np.ndarray, rng: np.random.Generator, found: Argument
) -> None:
    """Fill in `found` for argument i with gradient g, whose rounding is `noise`."""
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
    """All entries together were wrong, and none is by itself: either each is a little, or it was chance. New directions
    tell."""
    curves = tuple(problem.sweep(i, size * weights(rng, g.shape), g, noise) for _ in range(2))
    if all(curve.verdict == WRONG for curve in curves):
        found.verdict, found.curves, found.more = WRONG, curves, True


@dataclass
class _Search:
    """Halves of a direction, and what was found in them."""

    problem: Problem
    i: int
    g: np.ndarray
    noise: np.ndarray
    found: Argument
    compared: int = 0
    right: tuple[Curve, ...] = ()  # a curve that shows what a right part looks like
    reasons: list[str] = field(default_factory=list)

    def split(self, v: np.ndarray, whole: Curve) -> None:
        """Settle `found.verdict`: cut v into halves where they are not settled."""
        pending, parts = [np.arange(v.size)], 0
        while pending and parts < PARTS and len(self.found.wrong) < NAMED and len(self.reasons) < HOPELESS:
            part = pending.pop()
            parts += 1
            only = np.zeros(v.shape)
            only.flat[part] = v.flat[part] if part.size > 1 else abs(v.flat[part])
            curve = whole if part.size == v.size > 1 else self.problem.glance(self.i, only, self.g, self.noise, whole)
            if curve.settled:
                self.settle(part.size, curve)
            elif part.size > 1:
                pending += [part[part.size // 2 :], part[: part.size // 2]]
            else:
                index = tuple(int(n) for n in np.unravel_index(part[0], v.shape))
                self.single(index, float(only[index]), curve)
        found = self.found
        found.more = bool(pending)
        found.unseen = sum(part.size for part in pending)
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
        """One entry: right, wrong, at a kink, or not to be told."""
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
        """Whether a wrong entry is so at steps of its own size, too: to one of 1e-6 among others of size 1, the large
        steps of all may look like a function that has ended."""
        own = np.minimum(v, np.abs(self.problem.arrays[self.i]))
        return (
            own.max() >= v.max() or not own.any() or self.problem.sweep(self.i, own, self.g, self.noise).verdict != OK
        )


def _slope(curve: Curve, move: float) -> float:
    return math.nan if curve.best is None else _or_zero(curve.best.slope, curve.tolerance) / move


def _or_zero(slope: float, error: float) -> float:
    """0 for a slope that is not told from it: rounding is not worth printing."""
    return 0.0 if abs(slope) <= error else slope


def _why(curve: Curve) -> str:
    """Why a single entry's slope cannot be told, and what would help."""
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
