"""`cnncore lab`: experiments on the paper's claims. See cnncore/lab/."""

from __future__ import annotations

import argparse
import contextlib
import json
from typing import Any

from .. import lab
from ..backends.select import use_backend
from ..checkpoint import write_atomically
from ..ops.geometry import integer
from ..paths import user_path
from .common import add_command, add_group, chosen_backend, environment, print_json, tell_missing

SEEDS = {False: 3, True: 2}  # by --quick


def add_parser(commands: Any) -> None:
    group = add_group(
        commands, "lab", "Put a claim of the paper to the test: one experiment each.", "cnncore lab pooling --quick"
    )
    experiments = group.add_subparsers(dest="experiment", metavar="EXPERIMENT", required=True)
    for name in lab.EXPERIMENTS:
        module = lab.load(name)
        parser = add_command(
            experiments,
            name,
            module.__doc__.partition("\n")[0],
            f"cnncore lab {name} --quick --seed 1",
            backend="who computes (by default the fastest that is available)",
        )
        parser.add_argument("--quick", action="store_true", help="a look in seconds: too little data to conclude from")
        parser.add_argument("--seeds", type=int, metavar="N", help="repetitions (default: 3; 2 with --quick)")
        parser.add_argument("--seed", type=int, default=0, help="of the first repetition (default: 0)")
        parser.add_argument(
            "--run-dir", metavar="DIR", help=f"where to save (default: runs/lab/{name}; with --quick {name}-quick)"
        )
        module.add_options(parser)


def run(args: argparse.Namespace) -> int:
    experiment = lab.load(args.experiment)
    args.seeds = integer("lab", "seeds", SEEDS[args.quick] if args.seeds is None else args.seeds, 1)
    args.seed = integer("lab", "seed", args.seed, 0)
    args.run_dir = user_path(args.run_dir or f"runs/lab/{args.experiment}{'-quick' if args.quick else ''}")
    tell_missing(args)
    args.run_dir.mkdir(parents=True, exist_ok=True)
    with use_backend(args.backend) if args.backend else contextlib.nullcontext():
        args.backend = chosen_backend()
        result = experiment.run(args) | {"settings": settings(args)}
    write_atomically(args.run_dir / "result.json", json.dumps(result, indent=2).encode())
    if args.json:
        print_json(result)
    else:
        experiment.show(result, args.run_dir)
        print(f"saved in {args.run_dir}: {', '.join(sorted(p.name for p in args.run_dir.iterdir() if p.is_file()))}")
    return 0


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that decided the outcome."""
    chosen = {key: value for key, value in vars(args).items() if key not in ("command", "json", "debug")}
    return {**chosen, "run_dir": str(args.run_dir), **environment()}
