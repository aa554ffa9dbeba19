"""The paper's networks, each a page; NETWORKS names them for the command line."""

from .lenet import lenet
from .summary import summary

NETWORKS = ["lenet"]
__all__ = ["lenet", "summary"]
