"""`cnncore bench`: every kernel is compared with the NumPy definition, then timed, and set against the machine's limit.

A call with many FLOPs per byte (convolutions, matrix products) is held against the measured multiply-add peak; every
other is held against the measured copy rate, with its least bytes: every input read once, every result written once. An
op whose arrays fit the cache may pass 100 % of that. Times include allocating the results, as a user's call does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends.launch import dense
from ..errors import CnncoreError
from ..ops.op import Context, run
from ..ops.spec import Arrays, Cost
from .measure import Peaks, Time, peaks, timed
from .problems import Problem, first_samples, problems_of
from .versions import versions

__all__ = ["FORMATS", "Peaks", "Problem", "Row", "as_format", "peaks", "problems_of", "rows", "versions"]

FORMATS = ("contiguous", "channels_last")
DENSE = 4.0  # FLOPs per byte from which multiply-adds are the limit: pooling has below 2, the first conv of LeNet 12
TOLERANCE = 1e-4  # of the largest value: beyond any rounding of float32 sums of these lengths


@dataclass(frozen=True)
class Row:
    """One timing. `limit` says which peak `percent` is of: "fma" or "copy"."""

    op: str
    problem: str
    backend: str
    format: str
    direction: str
    ms: float
    median_ms: float
    gflops: float
    gbs: float
    limit: str
    percent: float


def rows(
    chosen: Sequence[Problem], backend: str, peak: Peaks, seconds: float, formats: Sequence[str] = FORMATS
) -> Iterator[Row]:
    """Check and time the problems, one row for each format and direction. Raises CnncoreError where a check fails."""
    for problem in chosen:
        arrays = problem.make(np.random.default_rng(0))
        small = first_samples(problem, arrays)
        expected = _results(problem, tuple(_float64(a) for a in small), "numpy")
        for layout in formats if _has_formats(problem, arrays) else formats[:1]:
            found = _results(problem, as_format(problem, small, layout), backend)
            _compare(problem, backend, layout, found, expected)
            yield from _time(problem, as_format(problem, arrays, layout), backend, layout, peak, seconds)


def _time(problem: Problem, arrays: Arrays, backend: str, layout: str, peak: Peaks, seconds: float) -> Iterator[Row]:
    def call() -> tuple[Any, Context]:
        return run(problem.op, arrays, problem.attrs, backend)

    y, ctx = call()
    forward, backward = problem.op.cost(ctx.spec, arrays, np.float32)
    yield _row(problem, backend, layout, "forward", timed(call, seconds), forward, peak)
    if problem.op.backward is not None:
        dy = _gradient(y)
        yield _row(problem, backend, layout, "backward", timed(lambda: ctx.backward(dy), seconds), backward, peak)


def _row(problem: Problem, backend: str, layout: str, direction: str, time: Time, cost: Cost, peak: Peaks) -> Row:
    gflops, gbs = cost.flops / time.best / 1e9, cost.bytes / time.best / 1e9
    dense = cost.flops > DENSE * cost.bytes
    limit, share = ("fma", gflops / peak.fma) if dense else ("copy", gbs / peak.copy)
    return Row(
        problem.op.name, problem.name, backend, layout, direction,
        1e3 * time.best, 1e3 * time.median, gflops, gbs, limit, 100 * share,
    )  # fmt: skip


def _results(problem: Problem, arrays: Arrays, backend: str) -> dict[str, np.ndarray]:
    """Every output and gradient by name."""
    y, ctx = run(problem.op, arrays, problem.attrs, backend)
    outputs = (y,) if problem.op.outputs == 1 else y
    named = {f"output {name}": a for name, a in zip(ctx.spec.results, outputs, strict=False)}
    if problem.op.backward is not None:
        gradients = zip(ctx.names, ctx.backward(_gradient(y)), strict=True)
        named |= {f"gradient of {name}": a for name, a in gradients if a is not None}
    return named


def _compare(problem: Problem, backend: str, layout: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, right in expected.items():
        error = np.abs(found[name] - right).max()
        if not error <= TOLERANCE * np.abs(right).max():
            raise CnncoreError(
                f"bench: {problem.op.name} {problem.name} ({backend}, {layout}): {name} differs from the definition "
                f"by {error:.2g}, its largest value is {np.abs(right).max():.2g}"
            )


def _gradient(y: np.ndarray) -> np.ndarray:
    """The same dy for the same shape, in y's dtype and memory format."""
    dy = np.empty_like(y)
    dy[...] = np.random.default_rng(1).standard_normal(y.shape, np.float32)
    return dy


def _float64(a: Any) -> Any:
    return a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a


def _has_formats(problem: Problem, arrays: Arrays) -> bool:
    return any(role.maps and a.ndim > 2 for role, a in zip(problem.op.roles(arrays), arrays, strict=True))


def as_format(problem: Problem, arrays: Arrays, layout: str) -> Arrays:
    """The arrays with their maps in a memory format."""
    channels_last = layout == "channels_last"
    roles = problem.op.roles(arrays)
    return tuple(
        dense(a, channels_last) if role.maps and a.ndim > 2 else a for a, role in zip(arrays, roles, strict=True)
    )
