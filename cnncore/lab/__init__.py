"""Experiments that put the paper's claims to the test: `cnncore lab NAME`.

An experiment is a module here, named as in EXPERIMENTS ("-" as "_"), with

    a docstring                   its first line is the summary that the command line shows
    add_options(parser)           adds options of its own; those that all share stand in cnncore/cli/lab.py
    run(args) -> result           does the work and returns what is to be known of it, ready for JSON; saves pictures
                                  in args.run_dir, which exists
    show(result, run_dir)         prints a saved result on stdout: tables, and sentences about them

The command line saves the result in args.run_dir / "result.json" with all settings under "settings". Of the common
options `run` reads args.quick (a look in seconds, not a result), args.seeds (how many), args.seed (the first),
args.run_dir (a Path), args.json (then it prints nothing) and args.backend (the name of the one that computes, chosen
already: only what runs in another process has to choose it again).
"""

from __future__ import annotations

import importlib
from typing import Any

EXPERIMENTS = ("pooling", "pooled-signal")


def load(name: str) -> Any:
    """The module of an experiment."""
    return importlib.import_module(f".{name.replace('-', '_')}", __name__)
