"""The paper's networks, each a page; DIGITS names those that take the embedded digits, for `cnncore train`."""

from .alexnet import alexnet
from .cuda_convnet import cuda_convnet
from .lenet import lenet
from .summary import summary

DIGITS = ["lenet"]
__all__ = ["alexnet", "cuda_convnet", "lenet", "summary"]
