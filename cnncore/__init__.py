"""cnncore: convolutional networks with every gradient written by hand. See README.md."""

from . import data, layers, metrics, models, ops, optim
from .backends.select import use_backend
from .errors import BackendError, CnncoreError, DTypeError, FormatError, ShapeError
from .gradcheck import gradcheck
from .layers import Branches, Sequential
from .train import Trainer

__version__ = "0.1.0"
__all__ = [
    "BackendError",
    "Branches",
    "CnncoreError",
    "DTypeError",
    "FormatError",
    "Sequential",
    "ShapeError",
    "Trainer",
    "data",
    "gradcheck",
    "layers",
    "metrics",
    "models",
    "ops",
    "optim",
    "use_backend",
]
