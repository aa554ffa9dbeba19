"""The paper's networks, each a page."""

from .lenet import lenet

__all__ = ["lenet"]
