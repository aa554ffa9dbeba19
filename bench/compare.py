"""cnncore against PyTorch on the CPU, in one process and one run: `make bench`, or `python bench/compare.py conv ops`.

Every problem is computed by both, in both memory formats; results are compared with PyTorch's in float64 first. Then
both sides, and loops that do only what nobody can do without (floors.py), take turns (turns.py). Written after each
section: bench/results/<section>.json, the tables of all, README.md, and curves.png. A problem that fails is told at the
end, and in the results; the others go on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch  # before the kernels: see turns.py
from compare_curves import point_rows
from compare_nets import network_rows
from compare_ops import conv_problems, op_problems, op_rows
from networks import NETWORKS
from points import OPS, points
from report import TITLES, table
from report_curves import curves_table, draw
from turns import Row

import cnncore as cc
from cnncore import bench, plots
from cnncore.backends import native
from cnncore.cli.info import cpu
from cnncore.progress import Progress

NETWORK = 10  # a step takes so much longer than a kernel, and is to be repeated as often
RESULTS = Path(__file__).parent / "results"
Work = dict[str, Callable[[], Iterator[Row]]]


def work_of(section: str, seconds: float) -> Work:
    """What a section measures, by name."""
    if section == "nets":
        return {name: lambda name=name: network_rows(name, NETWORK * seconds) for name in NETWORKS}
    if section == "curves":
        each = [(op, point) for op in OPS for point in points()]
        return {f"{op} {point}": lambda op=op, point=point: point_rows(op, point, seconds) for op, point in each}
    problems = conv_problems() if section == "conv" else op_problems()
    return {f"{p.op.name} {p.name}": lambda p=p: op_rows(section, p, seconds) for p in problems}


def measure(section: str, work: Work) -> tuple[list[Row], dict[str, str]]:
    """All rows, and why problems failed, by name."""
    rows: list[Row] = []
    failed: dict[str, str] = {}
    with Progress(len(work)) as bar:
        for name, make in work.items():
            bar.advance(1, f"{section}: {name}")
            try:
                rows += make()
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
    return rows, failed


def machine(peak: bench.Peaks, seconds: float) -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cpu": cpu(),
        "threads": native.get_threads(),
        "fma_gflops": peak.fma,
        "copy_gbs": peak.copy,
        "cnncore": {"version": cc.__version__, "isa": native.current_isa(), "compiler": native.info()["compiler"]},
        "torch": torch.__version__,
        "seconds": seconds,
    }


def told(section: str, result: dict[str, Any]) -> str:
    return curves_table(result) if section == "curves" else table(section, result)


def save(section: str, result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{section}.json").write_text(json.dumps(result, indent=1) + "\n")
    saved = {name: RESULTS / f"{name}.json" for name in TITLES if (RESULTS / f"{name}.json").exists()}
    texts = [told(name, json.loads(path.read_text())) for name, path in saved.items()]
    (RESULTS / "README.md").write_text("\n\n".join(texts) + "\n")
    if section == "curves" and plots.missing() is None:
        draw(result, RESULTS / "curves.png")


def run(sections: Iterable[str], only: str, seconds: float) -> dict[str, str]:
    """Measure, print and save; the failures."""
    torch.set_num_threads(native.get_threads())
    peak = bench.peaks()
    failed: dict[str, str] = {}
    for section in sections:
        start = time.perf_counter()
        work = {name: make for name, make in work_of(section, seconds).items() if only in name}
        rows, missing = measure(section, work)
        result = {"machine": machine(peak, seconds), "failed": missing, "rows": [asdict(row) for row in rows]}
        print(told(section, result))
        print(f"\n{section}: {time.perf_counter() - start:.0f} s\n", flush=True)
        if not only:
            save(section, result)
        failed |= {f"{section}: {name}": why for name, why in missing.items()}
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=list(TITLES), help=f"of: {', '.join(TITLES)} (default: all)")
    parser.add_argument("--only", default="", metavar="NAME", help="only what has NAME in its name; saves nothing")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each side of each problem (default: 0.3)")
    args = parser.parse_args()
    failed = run(args.sections, args.only, args.seconds)
    for name, why in failed.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
