"""`cnncore bench`: see cnncore/bench/."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .. import bench
from ..bench import FORMATS, Peaks, Problem, Row
from ..errors import CnncoreError
from ..ops.records import registry
from ..progress import Progress
from ..tables import print_table
from .common import add_command, chosen_backend, print_json

COLUMNS = ["op", "problem", "backend", "format", "direction", "best", "median", "rate", "of limit"]


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "bench",
        "Check every kernel against the NumPy definition, time it, and compare with this machine's measured limits.",
        "cnncore bench conv max_pool --only mnist",
        backend="whose kernels to time (c where it is available, else numpy)",
    )
    parser.add_argument("ops", nargs="*", metavar="OP", help="ops to time (all by default)")
    parser.add_argument("--only", metavar="NAME", default="", help="only problems with NAME in their name")
    parser.add_argument("--versions", action="store_true", help="earlier kernels, too (of conv; C backend)")
    parser.add_argument("--format", choices=FORMATS, help="one memory format (both by default)")
    parser.add_argument("--seconds", type=float, default=0.3, help="time for each measurement (default: 0.3)")


def run(args: argparse.Namespace) -> int:
    chosen = [p for name in args.ops or registry for p in bench.problems_of(registry[name]) if args.only in p.name]
    if args.versions:
        chosen = [version for p in chosen if p.op.name == "conv" for version in bench.versions(p)]
    if not chosen:
        raise CnncoreError(f"bench: no problem of {', '.join(args.ops) or 'any op'} has {args.only!r} in its name")
    formats = [args.format] if args.format else FORMATS
    peak, rows = measure(chosen, args.backend, args.seconds, formats, quiet=args.json)
    if args.json:
        print_json({"peaks": asdict(peak), "rows": [asdict(row) for row in rows]})
    else:
        print_rows(peak, rows)
    return 0


def measure(
    chosen: Sequence[Problem], backend: str | None, seconds: float, formats: Sequence[str], quiet: bool
) -> tuple[Peaks, list[Row]]:
    """The machine's peaks, and the rows of all problems."""
    rows: list[Row] = []
    with Progress(1 + len(chosen), quiet=quiet) as bar:
        bar.advance(0, "this machine's peaks")
        peak = bench.peaks()
        for problem in chosen:
            bar.advance(1, f"{problem.op.name} {problem.name}")
            rows += bench.rows([problem], backend or chosen_backend(), peak, seconds, formats)
    return peak, rows


def print_rows(peak: Peaks, rows: list[Row]) -> None:
    how = "measured by loops in C" if peak.source == "c" else "estimated with NumPy: the true limits are higher"
    print(f"this machine: {peak.fma:.0f} GFLOP/s fused multiply-add, {peak.copy:.1f} GB/s copy ({how})")
    table = [
        [r.op, r.problem, r.backend, r.format, r.direction, f"{r.ms:.3g}", f"{r.median_ms:.3g}", _rate(r),
         f"{r.percent:.0f} % {r.limit}"]
        for r in rows
    ]  # fmt: skip
    print_table("kernels: best and median of many calls, ms", COLUMNS, table, left=5)
    over = {r.limit for r in rows if r.percent > 100}
    if "fma" in over:
        print("above 100 % fma: the FLOPs of the definition count, and Winograd's algorithm needs fewer")
    if "copy" in over:
        print("above 100 % copy: the arrays fit into the caches, and copies were measured beyond them")


def _rate(r: Row) -> str:
    return f"{r.gflops:.1f} GFLOP/s" if r.limit == "fma" else f"{r.gbs:.1f} GB/s"
