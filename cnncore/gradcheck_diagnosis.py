"""What a wrong gradient looks like: sentences about where it is wrong, and what the derivative is beside it.

The derivative of single entries is measured: of all entries of a small array, of a grid of them in a large one. Each
sentence is a hypothesis that fits every entry measured, to six digits; where none fits, nothing is said.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from .backends.device import to_host
from .gradcheck_call import Run
from .gradcheck_curve import OK, WRONG
from .gradcheck_report import Report
from .gradcheck_search import Problem
from .gradcheck_table import Table, everything, measure

GLIMPSE, LOOKED = 100, 600  # entries measured: first so many at most, and more where nothing fits the whole
DIGITS = {"float64": 1e-6, "float32": 2e-3}


def diagnose(
    report: Report, problem: Problem, forward: Run, dys: tuple[np.ndarray, ...],
    gradients: dict[int, np.ndarray | None], noise: dict[int, np.ndarray],
) -> list[str]:  # fmt: skip
    """Sentences about every wrong argument, each beginning with its name."""
    found = _calls(report, forward, dys, gradients)
    if found:
        return found
    arguments = report.arguments
    wrong = {i: g for i, g in gradients.items() if g is not None and g.size and arguments[i].verdict == WRONG}

    def measured(i: int, most: int) -> Table:
        return measure(problem, i, arguments[i], wrong[i], noise.get(i), DIGITS[report.dtype], most)

    tables = {i: measured(i, GLIMPSE) for i in wrong}
    truths = {arguments[i].name: (table.grid, table.derivative) for i, table in tables.items()}
    for i, g in gradients.items():
        if arguments[i].verdict == OK and g is not None:
            truths[arguments[i].name] = (everything(g.shape), g)
    others = {a.name: problem.arrays[i] for i, a in enumerate(arguments)} | ({"dy": dys[0]} if len(dys) == 1 else {})
    others = {name: a for name, a in others.items() if isinstance(a, np.ndarray)}
    for i in wrong:
        texts = _whole(tables[i], others, truths, forward)
        if not texts:
            table = tables[i] if tables[i].complete else measured(i, LOOKED)
            texts = _whole(table, others, truths, forward) or _part(table, others)
        found += [f"{arguments[i].name}: {text}" for text in texts]
    return found


def _calls(
    report: Report, forward: Run, dys: tuple[np.ndarray, ...], gradients: dict[int, np.ndarray | None]
) -> list[str]:
    """What three more calls of backward show: it must be a function of dy alone, and linear in it."""
    expected = [(report.arguments[i].name, g) for i, g in gradients.items() if g is not None]

    def again(factor: int) -> list[np.ndarray]:
        result = forward.backward(*(factor * dy for dy in dys))
        given = [to_host(g) for g in (result if isinstance(result, tuple | list) else [result]) if g is not None]
        return [np.array(g) for g in given if isinstance(g, np.ndarray | np.generic)]

    try:
        first, second, other = again(1), again(1), again(-2)
    except Exception:  # a backward may be good for one call only, and then there is nothing to say
        return []
    if any(len(found) != len(expected) for found in (first, second, other)):
        return []
    texts = []
    for (name, g), a, b, c in zip(expected, first, second, other, strict=True):
        if not all(np.isfinite(found).all() for found in (g, a, b, c)) or a.shape != g.shape:
            continue
        if not (_alike(g, a) and _alike(a, b)):
            return ["a second call of backward gives another gradient: backward changes what forward kept"]
        if a.any() and _alike(a, c):
            texts.append(f"{name}: backward does not use dy: of -2 dy it makes the same gradient")
        elif not _alike(-2 * a, c):
            texts.append(f"{name}: backward is not linear in dy: of -2 dy it does not make -2 times the gradient")
    return texts


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.allclose(a, b, rtol=1e-3, atol=1e-12 * np.abs(b).max(initial=0.0)))


# --- hypotheses --------------------------------------------------------------------------------------------------


def _whole(
    t: Table, others: dict[str, np.ndarray], truths: dict[str, tuple[tuple[np.ndarray, ...], np.ndarray]], forward: Run
) -> list[str]:
    """A sentence that fits the whole gradient, if there is one."""
    bad = int((~np.isfinite(t.g)).sum())
    if bad:
        return [f"backward's gradient is NaN or Inf in {bad} of {t.g.size} entries"]
    if not t.wrong.any():
        return []
    if not t.g.any():
        return ["backward is 0 throughout, the derivative is not"]
    fitting = itertools.chain(
        _factor(t, forward),
        _rearranged(t),
        _others(t, truths),
        _products(t, others),
        _sums(t, others),
        _along_axes(t, others),
    )
    text = next(fitting, None)
    return [text] if text else []


def _part(t: Table, others: dict[str, np.ndarray]) -> list[str]:
    """Where the gradient is wrong, if these entries form a pattern, and what they have in common."""
    if not t.wrong.any() or t.g.ndim == 0:
        return []
    place = _labelled(t, others) or _box(t) or _border(t)
    found = [f"{t.count()} {place}"] if place else []
    return found + list(_local(t, bool(place)))


def _factor(t: Table, forward: Run) -> Iterator[str]:
    """backward = c derivative."""
    c = _ratio(t, t.known)
    if c is not None and abs(c - 1) > t.digits:
        yield f"backward is {c:.6g} times the derivative throughout{_meaning(c, t, forward)}"


def _ratio(t: Table, where: np.ndarray) -> float | None:
    """c, if backward = c derivative there."""
    g, d = t.gradient[where], t.derivative[where]
    large = np.abs(d) > 1e-3 * np.abs(d).max(initial=0.0)
    if not d.any() or (large.sum() < 2 and t.g.size > 1):
        return None
    c = float(np.median(g[large] / d[large]))
    if t.g.size == 1 and not _simple(c):
        return None
    return c if np.all(np.abs(g - c * d) <= max(abs(c), 1) * t.allowed) else None


def _simple(c: float) -> bool:
    """Whether c is a whole number or one over it: of a single entry any other factor proves nothing."""
    return any(
        abs(n - round(n)) < 1e-6 and 1 <= abs(round(n)) <= 1000
        for n in (c, 1 / c if c else math.inf)
        if math.isfinite(n)
    )


def _meaning(c: float, t: Table, forward: Run) -> str:
    """Where a factor may come from."""
    if abs(c + 1) < t.digits:
        return ": its sign is wrong"
    for n, say in ((c, "{} times too large"), (1 / c, "{} times too small")):
        if abs(n - round(n)) > 1e-5 * abs(n) or round(n) < 3:  # a 2 is as often forgotten as it is a length
            continue
        lengths = {t.name: t.g.shape, "y": forward.outputs[0].shape if len(forward.outputs) == 1 else ()}
        for name, shape in lengths.items():
            if round(n) in shape:
                return f" ({say.format(round(n))}; {round(n)} is the length of axis {shape.index(round(n))} of {name})"
            if len(shape) > 1 and round(n) == math.prod(shape):
                return f" ({say.format(round(n))}; {name} has {round(n)} entries)"
    return ""


def _rearranged(t: Table) -> Iterator[str]:
    """The derivative's entries at other places."""
    there, g = np.ix_(*t.grid), t.g
    if g.ndim == 2 and g.shape[0] == g.shape[1] and t.fits(g.T[there]):
        yield "it is the derivative's transpose"
    elif g.ndim == 2 and 1 not in g.shape:
        for reshaped in (g.T.reshape(g.shape), g.reshape(g.shape[::-1]).T):
            if t.fits(reshaped[there]):
                yield "it is the derivative's transpose, reshaped"
    for a, b in itertools.combinations(range(g.ndim), 2):
        if g.ndim > 2 and g.shape[a] == g.shape[b] and t.fits(np.swapaxes(g, a, b)[there]):
            yield f"it is the derivative's transpose in axes {a} and {b}"
    long = [axis for axis in range(g.ndim) if g.shape[axis] > 1]
    for count in range(1, len(long) + 1):
        for axes in itertools.combinations(long, count):
            if t.fits(np.flip(g, axes)[there]):
                yield f"it is the derivative reversed along {_axes(axes)}"
    spatial = [axis for axis in long if axis >= 2]
    for axes in [(axis,) for axis in long] + ([tuple(spatial)] if len(spatial) > 1 else []):
        for shift in (1, -1, 2, -2):
            if _shifted(t, axes, shift):
                yield f"it is the derivative shifted by {shift} along {_axes(axes)}"


def _shifted(t: Table, axes: tuple[int, ...], shift: int) -> bool:
    """Whether entry i of the derivative is entry i + shift of the gradient, wherever both are."""
    kept = t.derivative
    for axis in axes:
        inside = (t.grid[axis] + shift >= 0) & (t.grid[axis] + shift < t.g.shape[axis])
        kept = np.where(inside.reshape([-1 if k == axis else 1 for k in range(t.g.ndim)]), kept, np.nan)
    some = kept[np.isfinite(kept)]
    moved = np.roll(t.g, [-shift] * len(axes), axes)[np.ix_(*t.grid)]
    return some.size > 2 and bool(some.any()) and replace(t, derivative=kept).fits(moved)


def _others(t: Table, truths: dict[str, tuple[tuple[np.ndarray, ...], np.ndarray]]) -> Iterator[str]:
    """The derivative to another argument."""
    for name, (grid, truth) in truths.items():
        if name != t.name and all(len(a) for a in grid) and tuple(a[-1] + 1 for a in grid) == t.g.shape:
            other = t.g[np.ix_(*grid)] if truth.shape == tuple(map(len, grid)) else None
            known = np.isfinite(truth)
            if (
                other is not None
                and known.sum() > 1
                and np.allclose(other[known], truth[known], rtol=t.digits, atol=t.allowed)
            ):
                yield f"it is the derivative to {name}"


def _products(t: Table, others: dict[str, np.ndarray]) -> Iterator[str]:
    """An elementwise factor that is missing, or one too many."""
    there = np.ix_(*t.grid)
    for name, a in others.items():
        if a.shape != t.g.shape or a.dtype.kind != "f" or a.size < 2:
            continue
        part = a[there]
        if t.fits(t.gradient * part):
            yield f"the factor {name} is missing"
        elif np.all(np.abs(t.gradient - t.derivative * part)[t.known] <= t.allowed):
            yield f"the factor {name} is one too many"


def _sums(t: Table, others: dict[str, np.ndarray]) -> Iterator[str]:
    """dy summed over the wrong axes, where two have the same length."""
    dy = others.get("dy")
    if dy is None or t.g.ndim != 1 or dy.ndim < 2 or t.derivative.size != t.g.size:
        return
    sums = {k: dy.sum(tuple(j for j in range(dy.ndim) if j != k)) for k in range(dy.ndim) if dy.shape[k] == t.g.size}
    wrong = [k for k, total in sums.items() if np.allclose(total, t.g, rtol=t.digits)]
    right = [k for k, total in sums.items() if t.fits(total)]
    if wrong and right:
        yield f"dy is summed over the wrong axes: all but axis {wrong[0]}, instead of all but axis {right[0]}"


def _along_axes(t: Table, others: dict[str, np.ndarray]) -> Iterator[str]:
    """A constant that is missing along an axis, or a factor that depends on the index along one axis alone."""
    if t.wrong.sum() < 0.5 * t.known.sum() or t.known.sum() < 4:
        return
    difference = np.where(t.known, t.gradient - t.derivative, np.nan)
    size = float(np.abs(difference[t.known]).max(initial=0.0))
    axes = [axis for axis in range(t.g.ndim) if len(t.grid[axis]) > 1]
    constant = [axis for axis in axes if _spread(difference, axis) <= 10 * t.digits * size]
    if len(constant) == len(axes):
        yield f"a constant is missing: backward is the derivative plus {float(np.nanmedian(difference)):.6g} throughout"
    elif constant:
        yield f"a constant is missing along {_axes(constant)}, as where a mean or a sum over it is forgotten"
    for axis in axes if len(axes) > 1 else ():
        rest = tuple(k for k in range(t.g.ndim) if k != axis)
        large = t.known & (np.abs(t.derivative) > 1e-3 * np.abs(t.derivative[t.known]).max())
        ratio = np.where(large, t.gradient, np.nan) / np.where(large, t.derivative, np.nan)
        if (large.sum(axis=rest) < 2).any():
            continue
        c = np.nanmedian(ratio, axis=rest, keepdims=True)
        if np.all(np.abs(t.gradient - c * t.derivative)[t.known] <= np.abs(c).max() * t.allowed):
            values = c.ravel()
            for name, a in others.items():
                if a.dtype.kind == "f" and a.size == t.g.shape[axis] and name != t.name:
                    part = a.ravel()[t.grid[axis]]
                    if np.allclose(values * part, 1, rtol=1e-4):
                        yield f"the factor {name} is missing (along axis {axis})"
                    elif np.allclose(values, part, rtol=1e-4):
                        yield f"the factor {name} is one too many (along axis {axis})"
            shown = ", ".join(f"{v:.4g}" for v in values[:4]) + (", ..." if values.size > 4 else "")
            yield f"backward is the derivative times a factor that depends on the index along axis {axis}: {shown}"


def _spread(a: np.ndarray, axis: int) -> float:
    """The largest difference along an axis, of lines with two known entries or more; inf where there is none."""
    lines = np.isfinite(a).sum(axis=axis) > 1
    if not lines.any():
        return math.inf
    filled = np.isfinite(a)
    high, low = np.where(filled, a, -np.inf).max(axis=axis), np.where(filled, a, np.inf).min(axis=axis)
    return float((high - low)[lines].max())


def _labelled(t: Table, others: dict[str, np.ndarray]) -> str | None:
    """Wrong in every row at the column of its label."""
    rows, *columns = np.nonzero(t.wrong)
    if not t.complete or len(columns) != 1 or not np.array_equal(rows, np.arange(t.g.shape[0])) or len(rows) < 2:
        return None
    for name, a in others.items():
        if a.dtype.kind in "iu" and a.shape == rows.shape and np.array_equal(a, columns[0]):
            return f"are those at the labels: {t.name}[i, {name}[i]]"
    return None


def _box(t: Table) -> str | None:
    """The slice of the array that holds all wrong entries, if it is a part of it and most of its entries are wrong."""
    sets = [np.unique(places) for places in np.nonzero(t.wrong)]
    inside = np.ix_(*sets)
    comparable = t.known[inside] & ((t.derivative[inside] != 0) | t.wrong[inside])
    if math.prod(map(len, sets)) == t.derivative.size or t.wrong.sum() < 0.6 * comparable.sum():
        return None
    slices = [_slice(axis[places], axis, n) for places, axis, n in zip(sets, t.grid, t.g.shape, strict=True)]
    if None in slices:
        return None
    return f"{t.verb('is', 'lie in')} {t.name}[{', '.join(s for s in slices if s)}]"


def _slice(chosen: np.ndarray, axis: np.ndarray, n: int) -> str | None:
    """Indices of an axis of n as Python writes them: ":", "2", "3:5", "1::2"; None for indices without a pattern."""
    if len(chosen) == len(axis):
        return ":"
    if len(chosen) == 1:
        return str(int(chosen[0]))
    first, last = int(chosen[0]), int(chosen[-1])
    where = np.searchsorted(axis, chosen)
    steps = np.unique(np.diff(where))
    if len(steps) > 1:
        return None
    start, stop = str(first) if first else "", str(last + 1) if last + int(steps[0]) < n else ""
    return f"{start}:{stop}" + (f":{int(steps[0])}" if steps[0] > 1 else "")


def _border(t: Table) -> str | None:
    """All wrong entries within a few pixels of an end of a spatial axis, and most entries there wrong."""
    axes = range(2, t.g.ndim) if t.g.ndim > 2 else range(t.g.ndim)
    for width in (1, 2, 3):
        near = np.zeros(t.derivative.shape, bool)
        for axis in axes:
            n = t.g.shape[axis]
            if n > 2 * width:
                ends = (t.grid[axis] < width) | (t.grid[axis] >= n - width)
                near |= ends.reshape([-1 if k == axis else 1 for k in range(t.g.ndim)])
        if near.all() or not near.any():
            return None
        if not (t.wrong & ~near).any() and t.wrong.sum() >= 0.6 * (near & t.known).sum():
            rows = "row" if width == 1 else f"{width} rows"
            return f"{t.verb('is an entry', 'are entries')} at the border: the outermost {rows} of {_axes(axes)}"
    return None


def _local(t: Table, placed: bool) -> Iterator[str]:
    """What the wrong entries have in common, where others are right."""
    right = t.known & ~t.wrong
    if not right.any():
        return
    there, wrong = "there" if placed else "in all wrong entries", t.wrong & t.known
    d, g = t.derivative[wrong], t.gradient[wrong]
    if not len(d):
        return
    zero = np.abs(d) <= 1e-3 * t.allowed
    if zero.all() and len(d) > 1 and (placed or np.abs(t.derivative[right]).min() > 0):
        yield f"{there} the derivative is 0 and backward is not: a mask (of a ReLU, a maximum, dropout) is missing"
    elif not g.any():
        yield f"{there} backward is 0 and the derivative is not"
    else:
        c = _ratio(t, wrong)
        if c is not None:
            yield f"{there} backward is {c:.6g} times the derivative"


def _axes(axes: Any) -> str:
    axes = list(axes)
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes[:-1]))} and {axes[-1]}"
