"""What cnncore raises when it is given something it cannot compute.

Every one of them is a ValueError whose text reads `op: argument ... expected ... got ...`.
"""

from pathlib import Path


class CnncoreError(ValueError):
    """Base of all errors that a user's input can cause."""


class ShapeError(CnncoreError):
    """Shapes or geometry that do not fit together."""


class DTypeError(CnncoreError):
    """An array of the wrong type: not an array, not float32/float64, or mixed types."""


class BackendError(CnncoreError):
    """A backend that is not available, or has no kernel for what it was asked by name to compute."""


class FormatError(CnncoreError):
    """A file from outside that is not what it claims to be."""


class DivergenceError(CnncoreError):
    """A training whose loss is no longer finite."""


def install_hint(extra: str) -> str:
    """The command that installs an extra: for a clone, whose folder must be named, or for an installed package."""
    clone = Path(__file__).parents[1]
    if (clone / "pyproject.toml").is_file() and (clone / "csrc").is_dir():
        return f"pip install -e '{clone}[{extra}]'"
    return f"pip install 'cnncore[{extra}]'"
