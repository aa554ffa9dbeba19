"""What AVX-512 gains over AVX2, on a processor that has both: `python bench/isas.py`.

Every convolution layer, every op with a goal, and training steps and inference of whole networks, by either instruction
set, in turns. Written: bench/results/isas.json and isas.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import compare_ops  # imports PyTorch, before the kernels: see turns.py
import numpy as np
from goals import ISAS, OPS
from networks import NETWORKS, batch, our_inference, our_step
from turns import FORMATS, Calls, take_turns

from cnncore.backends import native
from cnncore.bench.problems import Problem
from cnncore.cli.info import cpu
from cnncore.ops.op import run
from cnncore.progress import Progress

RESULTS = Path(__file__).parent / "results"
BOTH = ("avx512", "avx2")
NETWORK = 8  # as often as a kernel is repeated, a step takes so much longer
Row = dict[str, Any]


def by(isa: str, call: Callable[[], Any]) -> Callable[[], Any]:
    def computed() -> Any:
        with native.use_isa(isa):
            return call()

    return computed


def measure(name: str, formats: dict[str, Calls], seconds: float) -> Iterator[Row]:
    """A row for each direction: milliseconds of both at their better memory format."""
    for direction in next(iter(formats.values())):
        sides = {f"{isa} {layout}": by(isa, formats[layout][direction]) for isa in BOTH for layout in formats}
        times = take_turns(sides, seconds)
        best = {isa: min(min(t) for side, t in times.items() if side.split()[0] == isa) for isa in BOTH}
        yield {"name": name, "direction": direction, **best, "ratio": best["avx2"] / best["avx512"]}


def problem_formats(problem: Problem) -> dict[str, Calls]:
    arrays = problem.make(np.random.default_rng(0))
    shape = run(problem.op, arrays, problem.attrs, "c")[1].shape
    dy = np.random.default_rng(1).standard_normal(shape, np.float32)
    return {layout: compare_ops.our_calls(problem, arrays, dy, layout) for layout in FORMATS}


def network_formats(name: str) -> dict[str, Calls]:
    build, shape = NETWORKS[name]
    x, labels = batch(shape, "channels_last")
    return {"channels_last": {"train": our_step(build(), x, labels), "infer": our_inference(build(), x)}}


def rows(seconds: float) -> Iterator[Row]:
    problems = [*compare_ops.conv_problems(), *compare_ops.op_problems()[: len(OPS)]]
    with Progress(len(problems) + len(NETWORKS)) as bar:
        for problem in problems:
            bar.advance(1, f"{problem.op.name} {problem.name}")
            yield from measure(f"{problem.op.name} {problem.name}", problem_formats(problem), seconds)
        for name in NETWORKS:
            bar.advance(1, name)
            yield from measure(name, network_formats(name), NETWORK * seconds)


def table(found: list[Row], machine: dict[str, Any], seconds: float) -> str:
    ratios = [row["ratio"] for row in found]
    mean, within = math.exp(sum(map(math.log, ratios)) / len(ratios)), sum(r <= ISAS for r in ratios)
    worst = max(found, key=lambda row: row["ratio"])
    lines = [
        "## AVX2 beside AVX-512",
        "",
        f"{machine['cpu']}, {machine['threads']} threads. `python bench/isas.py --seconds {seconds:g}`",
        "",
        "Milliseconds of each at its better memory format, in turns. AVX2 takes",
        f"{mean:.2f} times as long on average (geometric mean), at most {worst['ratio']:.2f} times ({worst['name']},",
        f"{worst['direction']}); within {ISAS:g} times: {within} of {len(found)}.",
        "",
        "| what | direction | AVX-512 | AVX2 | AVX2 / AVX-512 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in found:
        ratio = f"{row['ratio']:.2f}" if row["ratio"] <= ISAS else f"**{row['ratio']:.2f}**"
        lines.append(f"| {row['name']} | {row['direction']} | {row['avx512']:.3g} | {row['avx2']:.3g} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.2, help="for each side of each problem (default: 0.2)")
    args = parser.parse_args()
    if missing := [isa for isa in BOTH if isa not in native.supported()]:
        print(f"isas.py compares {' and '.join(BOTH)}; not here: {', '.join(missing)}", file=sys.stderr)
        return 1
    found = list(rows(args.seconds))
    machine = {"cpu": cpu(), **native.info()}
    result = {"machine": machine, "seconds": args.seconds, "rows": found}
    (RESULTS / "isas.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "isas.md").write_text(text := table(found, machine, args.seconds))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
