"""Paths that a user gives."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """`path` with a leading ~ or ~name as the home directory that a shell would put there."""
    return Path(os.path.expanduser(path))
