"""The paper's networks, each a page; DIGITS names those that take the embedded digits, for `cnncore train`."""

from .alexnet import alexnet
from .cuda_convnet import cuda_convnet
from .lenet import lenet
from .maxout_net import maxout_net
from .summary import summary

DIGITS = ["lenet", "maxout_net"]
__all__ = ["alexnet", "cuda_convnet", "lenet", "maxout_net", "summary"]
