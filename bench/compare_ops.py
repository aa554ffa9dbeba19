"""One op on all sides: the convolution layers, every other op, and (compare_curves.py) the points of cost curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from floors import floors, work_of
from goals import OPS
from peers import CALLS, OTHER_FORMS, Call, tensors
from turns import FORMATS, Calls, Row, Wrong, distance, fill

import cnncore as cc
from cnncore import bench
from cnncore.backends import launch
from cnncore.bench.problems import SHAPE, Problem
from cnncore.ops.op import run

DIRECTIONS = ("forward", "backward", "both")  # both: one after the other
LARGEST_ERROR = 1e-3  # of ||y||: far beyond rounding


def conv_problems() -> list[Problem]:
    return bench.problems_of(cc.ops.registry["conv"])


def op_problems() -> list[Problem]:
    """Those with a stated goal, then every other op that `cnncore bench` times."""
    chosen = []
    for op, label, attrs, _ in OPS:
        like = bench.problems_of(cc.ops.registry[op])[0]
        chosen.append(Problem(like.op, label or "x".join(map(str, SHAPE)), like.make, attrs))
    named = {op for op, *_ in OPS} | {"conv"}
    rest = [op for name, op in cc.ops.registry.items() if name not in named]
    return chosen + [problem for op in rest for problem in bench.problems_of(op)]


def op_rows(section: str, problem: Problem, seconds: float, directions: Sequence[str] = DIRECTIONS) -> Iterator[Row]:
    """A row for each direction. Where PyTorch has the op, both sides are first compared with its float64 results.

    Raises Wrong.
    """
    arrays = problem.make(np.random.default_rng(0))
    drawn = tuple(a for a in arrays if isinstance(a, np.ndarray))  # the others are keys: PyTorch has its own
    ctx = run(problem.op, arrays, problem.attrs, "c")[1]
    dy = np.random.default_rng(1).standard_normal(ctx.shape, np.float32)
    calls: dict[str, Calls] = {direction: {} for direction in DIRECTIONS}
    forms = their_forms(problem)
    for layout in FORMATS if any(a.ndim == 4 for a in drawn) else FORMATS[:1]:
        for direction, call in our_calls(problem, arrays, dy, layout).items():
            calls[direction][f"cnncore {layout}"] = call
        for form, theirs in forms.items():
            given, dy_t = tensors(drawn, layout), tensors((dy,), layout)[0]
            for direction, call in their_calls(theirs, given, dy_t).items():
                calls[direction][f"torch {form} {layout}".replace("  ", " ")] = call
    exact = their_exact(forms[""], drawn, dy) if forms and len(drawn) == len(arrays) else {}
    works = work_of(problem, arrays, ctx)
    for direction in directions if problem.op.backward is not None else DIRECTIONS[:1]:
        row = Row(section, problem.op.name, problem.name, direction)
        if direction in exact:
            row.error = {name: error(call(), exact[direction]) for name, call in calls[direction].items()}
            check(row)
        parts = {part: work for part, work in works.items() if direction in (part, "both")}
        yield fill(row, calls[direction] | floors(parts), seconds)


def our_calls(problem: Problem, arrays: Any, dy: np.ndarray, layout: str) -> Calls:
    own = bench.as_format(problem, arrays, layout)
    gradient = launch.dense(dy, layout == "channels_last" and dy.ndim == 4)
    if problem.op.backward is None:
        return {"forward": lambda: run(problem.op, own, problem.attrs, "c")[0]}
    _, ctx = run(problem.op, own, problem.attrs, "c")
    return {
        "forward": lambda: run(problem.op, own, problem.attrs, "c")[0],
        "backward": lambda: ctx.backward(gradient),
        "both": lambda: run(problem.op, own, problem.attrs, "c")[1].backward(gradient),
    }


def their_forms(problem: Problem) -> dict[str, Call]:
    """Every way in which PyTorch computes the op, by name; "" is the one that its users would write."""
    name = problem.op.name
    if name not in CALLS:
        return {}
    forms = {"": CALLS[name](**problem.attrs)}
    return forms | {form: make(**problem.attrs) for form, make in OTHER_FORMS.get(name, {}).items()}


def their_calls(theirs: Call, given: list[torch.Tensor], dy: torch.Tensor) -> Calls:
    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return theirs(*given)

    learning = [t.clone().requires_grad_(True) if t.is_floating_point() else t for t in given]
    floats = [t for t in learning if t.requires_grad]
    y = theirs(*learning)
    return {
        "forward": forward,
        "backward": lambda: torch.autograd.grad(y, floats, dy, retain_graph=True),
        "both": lambda: torch.autograd.grad(theirs(*learning), floats, dy),
    }


def their_exact(theirs: Callable[..., torch.Tensor], drawn: Any, dy: np.ndarray) -> dict[str, list[np.ndarray]]:
    """y, and the gradients of all arguments that have one, in float64."""
    calls = their_calls(theirs, tensors(drawn, "contiguous", torch.float64), torch.from_numpy(dy).double())
    return {direction: results(calls[direction]()) for direction in ("forward", "backward")}


def results(found: Any) -> list[np.ndarray]:
    several = found if isinstance(found, tuple) else (found,)
    return [a.detach().numpy() if isinstance(a, torch.Tensor) else a for a in several if a is not None]


def error(found: Any, exact: list[np.ndarray]) -> float:
    return max(distance(a, right) for a, right in zip(results(found), exact, strict=True))


def check(row: Row) -> None:
    for name, found in row.error.items():
        if not found < LARGEST_ERROR:
            raise Wrong(f"{row.op} {row.problem} {row.direction}: {name} differs from float64 by {found:.2g}")
