"""`cnncore demo`: the whole of cnncore in a minute or two. Gradients checked, digits learnt, kernels timed."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import bench, ops
from ..errors import CnncoreError
from ..gradcheck import gradcheck
from ..ops.domain import Draw
from ..ops.op import registry
from ..progress import Progress
from .bench import measure, print_rows
from .common import add_command, available, print_json, print_table
from .train import add_options, print_result, train

PROBLEMS = {"conv": ["mnist1", "mnist2"], "linear": ["lenet fc"], "max_pool": ["2x2/2"], "relu": ["64x96x32x32"]}
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


def check_gradients(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One drawn problem of every op on every backend. Raises CnncoreError where a gradient is wrong."""
    backends = available()
    found: list[dict[str, Any]] = []
    rows = []
    with Progress(len(registry), quiet=args.json) as bar:
        for name, op in registry.items():
            bar.advance(1, f"gradient of {name}")
            case = op.domain(Draw(args.seed))
            reports = [
                gradcheck(getattr(ops, name), case.arrays, backend=b, gap=case.gap, **case.attrs) for b in backends
            ]
            wrong = [report for report in reports if not report.ok]
            if wrong:
                raise CnncoreError(
                    f"demo: the gradient of {name} on {wrong[0].backend} is wrong (cnncore gradcheck {name})"
                )
            found += [report.as_dict() for report in reports]
            rows.append([name, *(f"{report.max_error:.0e}" for report in reports)])
    if not args.json:
        print_table("gradients: relative error against central differences", ["op", *backends], rows)
    return found


def run(args: argparse.Namespace) -> int:
    if args.quick:
        vars(args).update(QUICK)
    run_dir = Path(args.run_dir)
    gradients = check_gradients(args)
    metrics = train(args, run_dir)
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
