"""The derivative of single entries beside the gradient under test, for gradcheck_diagnosis.py."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .gradcheck_curve import OK, WRONG, Curve
from .gradcheck_report import Argument
from .gradcheck_search import Problem, sizes

COST = 1e7  # so many entries are measured that entries times sizes of all arrays stay below this
FEWEST = 64


@dataclass(frozen=True)
class Table:
    """The gradient of one argument beside the derivative, where that was measured (elsewhere NaN)."""

    name: str
    g: np.ndarray  # all of the gradient
    grid: tuple[np.ndarray, ...]  # the indices measured along each axis
    derivative: np.ndarray
    wrong: np.ndarray
    digits: float

    @property
    def complete(self) -> bool:
        return self.derivative.size == self.g.size

    @property
    def gradient(self) -> np.ndarray:
        return self.g[np.ix_(*self.grid)]

    @property
    def known(self) -> np.ndarray:
        return np.isfinite(self.derivative)

    @property
    def allowed(self) -> float:
        """What counts as equal."""
        return self.digits * float(np.abs(self.derivative[self.known]).max(initial=0.0))

    def fits(self, g: np.ndarray) -> bool:
        """Whether an array of the grid's shape is the derivative, wherever that is known."""
        return bool(np.all(np.abs(g - self.derivative)[self.known] <= self.allowed))

    def count(self) -> str:
        """The wrong entries, as the subject of a sentence."""
        n = int(self.wrong.sum())
        text = "the one wrong entry" if n == 1 else f"all {n} wrong entries"
        return text if self.complete else f"{text} among the {int(self.known.sum())} looked at"

    def verb(self, one: str, many: str) -> str:
        return one if self.wrong.sum() == 1 else many


def measure(
    problem: Problem, i: int, argument: Argument, g: np.ndarray, noise: np.ndarray | None, digits: float, most: int
) -> Table:  # fmt: skip
    """The derivative of single entries: known where the search named all wrong ones, else measured."""
    if not argument.more:
        derivative, wrong = g.copy(), np.zeros(g.shape, bool)
        for w in argument.wrong:
            derivative[w.index], wrong[w.index] = (w.numeric if w.sides is None else np.nan), True
        for k in argument.kinks:
            derivative[k.index] = np.nan
        return Table(argument.name, g, everything(g.shape), derivative, wrong, digits)
    total = sum(a.size for a in problem.arrays if isinstance(a, np.ndarray)) + problem.dy.size
    grid = _grid(g.shape, min(most, max(int(COST / total), FEWEST)))
    derivative = np.full([len(axis) for axis in grid], np.nan)
    wrong = np.zeros(derivative.shape, bool)
    like = next((curve for curve in argument.curves if curve.best is not None), None)
    size = sizes(problem.arrays[i])
    quiet = np.zeros(g.shape) if noise is None else noise
    claims = np.where(
        np.isfinite(g), g, 0.0
    )  # the derivative of an entry whose gradient is NaN is measured all the same
    for place in np.ndindex(derivative.shape):
        index = tuple(axis[n] for axis, n in zip(grid, place, strict=True))
        v = np.zeros(g.shape)
        v[index] = size[index]
        curve = _entry(problem, i, v, claims, quiet, like)
        if curve.best is not None and not curve.coarse and curve.verdict in (OK, WRONG):
            derivative[place] = curve.best.slope / size[index]
            wrong[place] = curve.verdict == WRONG or not np.isfinite(g[index])
    return Table(argument.name, g, grid, derivative, wrong, digits)


def _entry(problem: Problem, i: int, v: np.ndarray, g: np.ndarray, noise: np.ndarray, like: Curve | None) -> Curve:
    if like is not None:
        curve = problem.glance(i, v, g, noise, like)
        if not curve.coarse and curve.verdict in (OK, WRONG):
            return curve
    return problem.sweep(i, v, g, noise)


def _grid(shape: tuple[int, ...], most: int) -> tuple[np.ndarray, ...]:
    """Indices along each axis, both ends among them; all of them where the array is small."""
    counts = list(shape)
    while math.prod(counts) > most and max(counts) > 2:
        counts[counts.index(max(counts))] -= 1
    return tuple(np.unique(np.linspace(0, n - 1, c).round().astype(int)) for n, c in zip(shape, counts, strict=True))


def everything(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    return tuple(np.arange(n) for n in shape)
