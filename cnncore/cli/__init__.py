"""The command line. Each command is a module here with `add_parser(subparsers)` and `run(args) -> exit status`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..errors import CnncoreError

COMMANDS = ("demo", "train", "gradcheck", "bench", "lab", "info")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = Parser(prog="cnncore", description="Convolutional networks from scratch: every gradient by hand.")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f".{name}", __name__).add_parser(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0, 1 (it failed, one line on stderr says why), 130 (Ctrl-C)."""
    args = parser().parse_args(argv)
    command = importlib.import_module(f".{args.command}", __name__)
    try:
        status = int(command.run(args))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader has gone (`cnncore info | head -1`): nobody is left to tell, and exiting must not flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        if args.debug:
            raise
        return _fail("interrupted", 130)
    except Exception as error:
        if args.debug:
            raise
        expected = isinstance(error, CnncoreError | OSError | ImportError)
        text = " ".join(str(error).split()) or type(error).__name__
        return _fail(text if expected else f"{type(error).__name__}: {text} (--debug shows where)", 1)


def _fail(text: str, status: int) -> int:
    print(f"cnncore: {text}", file=sys.stderr)
    return status
