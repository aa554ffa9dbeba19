"""The kernels of several trees, side by side: of several compilers (docs/kernels/compilers.md), or of two commits.

    git clone . /tmp/gcc && (cd /tmp/gcc && CC=gcc python setup.py -q build_ext --inplace)
    git clone . /tmp/clang && (cd /tmp/clang && CC=clang python setup.py -q build_ext --inplace)
    python bench/trees.py gcc=/tmp/gcc clang=/tmp/clang
    python bench/trees.py --threads 2 before=/tmp/other_clone now=.

Every side is a process that imports the cnncore of its own tree. Sides take turns, call by call, so that whatever else
the machine does slows all alike. A side's ratio is the median over the turns of its time divided by the first side's.
Maps are contiguous, as the benchmark draws them, or channels last.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

OPS = ("conv", "lrn", "lrn_within", "max_pool", "avg_pool", "lp_pool", "global_avg_pool", "relu", "tanh", "dropout",
       "softmax", "linear", "lp_unit", "adam_step")  # fmt: skip


def serve(threads: int) -> None:
    """Read an op, a problem, a direction and a format from every line, call it once, print the milliseconds."""
    from cnncore.backends import native

    native.set_threads(threads)
    key, call = "", (lambda: None)
    for line in sys.stdin:
        if line != key:
            key, call = line, _call(*line.split("\t"))
            call()
        from cnncore.bench.measure import once

        print(1e3 * once(call), flush=True)


def _call(op: str, name: str, direction: str, layout: str) -> Callable[[], Any]:
    import numpy as np

    import cnncore as cc
    from cnncore.bench.problems import problems_of

    problem = next(p for p in problems_of(cc.ops.registry[op]) if p.name == name)
    arrays = problem.make(np.random.default_rng(0))
    if layout.strip() == "channels last":
        first = arrays[0].shape
        arrays = tuple(
            np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) if getattr(a, "shape", 0) == first else a
            for a in arrays
        )
    run = getattr(cc.ops, op)
    if direction == "forward":
        return lambda: run(*arrays, **problem.attrs, backend="c")
    y, ctx = run(*arrays, **problem.attrs, backend="c")
    y = y[0] if isinstance(y, tuple) else y
    dy = np.empty_like(y)
    dy[...] = np.random.default_rng(1).standard_normal(y.shape)
    return lambda: ctx.backward(dy)


def problems(ops: list[str]) -> list[str]:
    """What is timed, as lines for `serve`."""
    import cnncore as cc
    from cnncore.bench.problems import problems_of

    lines = []
    for op in ops:
        for problem in problems_of(cc.ops.registry[op]):
            for direction in ("forward",) if op.endswith("_step") else ("forward", "backward"):
                for layout in ("contiguous", "channels last") if problem.name != "lenet fc" else ("contiguous",):
                    lines.append("\t".join((op, problem.name, direction, layout)))
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", nargs="+", help="NAME=TREE: a compiler's name, and a tree with the kernels it made")
    parser.add_argument("--threads", type=int, default=1, help="of the kernels (default: 1)")
    parser.add_argument("--turns", type=int, default=15, help="calls of every side of every problem (default: 15)")
    parser.add_argument("--op", nargs="+", default=OPS, help=f"what is timed (default: {' '.join(OPS)})")
    args = parser.parse_args()
    if args.side == ["serve"]:
        serve(args.threads)
        return 0
    sides = dict(side.split("=", 1) for side in args.side)
    command = [sys.executable, __file__, "serve", "--threads", str(args.threads)]
    running = {
        name: subprocess.Popen(
            command, cwd=tree, env=os.environ | {"PYTHONPATH": tree}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for name, tree in sides.items()
    }  # fmt: skip
    first, ratios = next(iter(sides)), {name: [] for name in sides}
    print(f"| op | problem | direction | format | {first}, ms | {' | '.join(list(sides)[1:])} |")
    print(f"| --- | --- | --- | --- | ---: |{' ---: |' * (len(sides) - 1)}")
    for line in problems(args.op):
        turns = [{name: _ask(process, line) for name, process in running.items()} for _ in range(args.turns)]
        for name in sides:
            ratios[name].append(statistics.median(turn[name] / turn[first] for turn in turns))
        shown = [f"{statistics.median(turn[first] for turn in turns):.2f}"]
        shown += [f"{found[-1]:.2f}" for name, found in ratios.items() if name != first]
        print(f"| {line.replace(chr(9), ' | ')} | {' | '.join(shown)} |", flush=True)
    for name, found in ratios.items():
        print(f"{name}: geometric mean {statistics.geometric_mean(found):.3f}, largest {max(found):.2f}")
    return 0


def _ask(process: subprocess.Popen[str], line: str) -> float:
    assert process.stdin and process.stdout
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


if __name__ == "__main__":
    sys.exit(main())
