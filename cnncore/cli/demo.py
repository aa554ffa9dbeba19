"""`cnncore demo`: the whole of cnncore in a minute or two. Gradients checked, digits learnt, kernels timed."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from .. import bench
from ..errors import CnncoreError
from ..ops.records import registry
from ..paths import user_path
from .bench import measure, print_rows
from .common import add_command, available, print_json
from .gradcheck import check, print_missing, print_reports, simulate_without_gpu
from .train import add_options, prepare, print_result, train

PROBLEMS = {"conv": ["mnist1", "mnist2"], "linear": ["lenet fc"], "max_pool": ["2x2/2"], "relu": ["64x96x32x32"]}
SEEDS = 3
QUICK = {"epochs": 1, "images": 500}


def add_parser(commands: Any) -> None:
    parser = add_command(
        commands,
        "demo",
        "Check every gradient on every backend, train LeNet on 8,000 real digits, time the kernels.",
        "cnncore demo --seed 3 --run-dir runs/seed3",
        backend="who trains (by default the fastest that is available)",
    )
    add_options(parser)
    parser.add_argument("--quick", action="store_true", help="a look in seconds: one epoch on the first 500 images")
    parser.set_defaults(run_dir="runs/demo", model="lenet")


def check_gradients(quiet: bool) -> list[dict[str, Any]]:
    """Drawn problems of every op on every backend. Raises CnncoreError where a gradient is wrong."""
    simulate_without_gpu()
    reports = check(registry, available(), "float64", SEEDS, quiet)
    if not quiet:
        print_reports(reports, "float64", SEEDS)
    wrong = [key for key, group in reports.items() if not all(report.ok for report in group)]
    if wrong:
        found = ", ".join(f"{name} on {backend}" for name, backend in wrong)
        raise CnncoreError(f"demo: wrong gradients: {found} (cnncore gradcheck {wrong[0][0]} shows more)")
    if not quiet:
        checked = [report for group in reports.values() for report in group]
        print(f"every gradient is right: {len(checked)} checks of {len(registry)} ops on {' and '.join(available())}")
        print_missing()
    return [report.as_dict() for group in reports.values() for report in group]


def run(args: argparse.Namespace) -> int:
    if args.quick:
        vars(args).update(QUICK)
    run_dir = user_path(args.run_dir)
    prepared = prepare(args, run_dir)
    gradients = check_gradients(quiet=args.json)
    metrics = train(prepared, args, run_dir)
    if not args.json:
        print_result(metrics, run_dir)
    chosen = [p for name, names in PROBLEMS.items() for p in bench.problems_of(registry[name]) if p.name in names]
    peak, rows = measure(chosen, args.backend, 0.01 if args.quick else 0.2, bench.FORMATS[:1], quiet=args.json)
    if args.json:
        kernels = {"peaks": asdict(peak), "rows": [asdict(row) for row in rows]}
        print_json({"gradients": gradients, "metrics": metrics, "bench": kernels})
    else:
        print_rows(peak, rows)
    return 0
