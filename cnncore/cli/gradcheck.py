"""`cnncore gradcheck`: every op's gradient on every backend, on drawn problems. See cnncore/gradcheck.py."""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..backends import select
from ..errors import CnncoreError
from ..gradcheck import gradcheck
from ..gradcheck_report import Report
from ..ops.domain import Draw
from ..ops.op import Op
from ..ops.records import registry
from ..progress import Progress
from ..tables import print_table
from .common import add_command, available, print_json, require

Reports = dict[tuple[str, str], list[Report]]  # (op, backend) -> one per problem


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "gradcheck",
        "Compare every hand-written gradient with central differences, on problems drawn for each op.",
        "cnncore gradcheck conv --backend c --dtype float32 --plot conv.png",
    )
    parser.add_argument("ops", nargs="*", metavar="OP", help="ops to check (all by default), with their full reports")
    parser.add_argument(
        "--backend", choices=[*select.NAMES, "all"], default="all", help="whose gradient (default: all)"
    )
    parser.add_argument(
        "--dtype", choices=["float64", "float32"], default="float64", help="its type (default: float64)"
    )
    parser.add_argument("--seeds", type=int, metavar="N", default=3, help="problems drawn for each op (default: 3)")
    parser.add_argument(
        "--plot", metavar="FILE", help="save error against step, of the first wrong or else first check"
    )


def run(args: argparse.Namespace) -> int:
    if args.seeds < 1:
        raise CnncoreError(f"gradcheck: --seeds must be at least 1, got {args.seeds}")
    if args.plot:
        require("matplotlib", "plot")
    chosen = {name: registry[name] for name in args.ops or registry}
    if args.backend in ("cuda", "all"):
        simulate_without_gpu()
    backends = available() if args.backend == "all" else [args.backend]
    reports = check(chosen, backends, args.dtype, args.seeds, quiet=args.json)
    every = [report for group in reports.values() for report in group]
    wrong = [report for report in every if not report.ok]
    if args.json:
        print_json(
            {"ok": not wrong, "backends": {b: label(b) for b in backends}, "reports": [r.as_dict() for r in every]}
        )
    else:
        show(args, reports, wrong)
    if args.plot:
        drawable = [report for report in [*wrong, *every] if any(a.curves for a in report.arguments)]
        if not drawable:
            raise CnncoreError(f"gradcheck: {', '.join(chosen)} has no gradient, there is nothing to plot")
        drawable[0].plot(args.plot)
    return 1 if wrong else 0


def check(chosen: Mapping[str, Op], backends: Sequence[str], dtype: str, seeds: int, quiet: bool) -> Reports:
    """Check the first `seeds` problems of each op's domain on each backend that has a kernel for it."""
    reports: Reports = {}
    with Progress(len(chosen) * len(backends), quiet=quiet) as bar:
        for name, op in chosen.items():
            for backend in backends:
                bar.advance(1, f"{name} on {label(backend)}")
                absent = backends != [backend] and select.load(backend).missing(op)
                cases = [op.domain(Draw(seed)) for seed in range(0 if absent else seeds)]
                reports[name, backend] = [
                    gradcheck(op.function, c.arrays, backend=backend, dtype=dtype, seed=s, gap=c.gap, **c.attrs)
                    for s, c in enumerate(cases)
                ]
    return reports


def show(args: argparse.Namespace, reports: Reports, wrong: list[Report]) -> None:
    """The full reports asked for, a table of all, and every wrong report."""
    for report in [r for group in reports.values() for r in group if args.ops and r.ok] + wrong:
        print(report, end="\n\n")
    print_reports(reports, args.dtype, args.seeds)
    if args.backend == "all":
        print_missing()


def print_missing() -> None:
    """Which backends could not be checked, and why."""
    for backend in select.NAMES:
        reason = select.why_not(backend)
        if reason:
            print(f"not checked: {reason}")


def print_reports(reports: Reports, dtype: str, seeds: int) -> None:
    """A table of the largest errors, op by backend."""
    names, backends = (list(dict.fromkeys(key[i] for key in reports)) for i in (0, 1))
    rows = [[name, *(_cell(reports[name, b]) for b in backends)] for name in names]
    title = f"gradients in {dtype}, {seeds} problems each: largest relative error against central differences"
    print_table(title, ["op", *map(label, backends)], rows)


def _cell(group: list[Report]) -> str:
    if not group:
        return "no kernel"
    note = "" if group[0].forward_error is None else " (no gradient: forward)"
    bad = [report.verdict.upper() for report in group if not report.ok]
    worst = max(bad, default="")  # WRONG before CANNOT TELL
    return f"{worst} in {len(bad)}" if bad else f"{max(report.max_error for report in group):.0e}{note}"


def label(backend: str) -> str:
    """The backend's name; says where CUDA is Numba's simulator."""
    simulated = select.why_not(backend) is None and getattr(select.load(backend), "simulated", False)
    return f"{backend} (simulated)" if simulated else backend


def simulate_without_gpu() -> None:
    """Choose Numba's CUDA simulator where there is no GPU. Numba reads the choice when it is imported first."""
    installed = importlib.util.find_spec("numba_cuda") is not None
    if installed and "numba" not in sys.modules and "NUMBA_ENABLE_CUDASIM" not in os.environ and not has_gpu():
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"


def has_gpu() -> bool:
    """Whether NVIDIA's driver is here and knows a GPU (asked directly: Numba must not be imported yet)."""
    count = ctypes.c_int(0)
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(library)
        except OSError:
            continue
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value > 0
    return False
