"""The paper's networks, each a page. DIGITS: those that take the embedded digits, with the arguments that make them do
so, for `cnncore train`."""

from typing import Any

from .alexnet import alexnet
from .any_size import any_size
from .cuda_convnet import cuda_convnet
from .deep_maxout import deep_maxout
from .lenet import lenet
from .maxout_net import maxout_net
from .network_in_network import network_in_network
from .sermanet import sermanet
from .summary import summary
from .zeiler_fergus import zeiler_fergus

DIGITS: dict[str, dict[str, Any]] = {
    "lenet": {},
    "maxout_net": {},
    "deep_maxout": {},
    "zeiler_fergus": {"image": (1, 28, 28)},
    "network_in_network": {"channels": 1},
    "sermanet": {"image": (1, 28, 28)},
    "any_size": {},
}
__all__ = [
    "alexnet",
    "any_size",
    "cuda_convnet",
    "deep_maxout",
    "lenet",
    "maxout_net",
    "network_in_network",
    "sermanet",
    "summary",
    "zeiler_fergus",
]
