"""cnncore: convolutional networks with every gradient written by hand. See README.md."""

from . import data, layers, models, ops
from .backends.select import use_backend
from .errors import BackendError, CnncoreError, DTypeError, FormatError, ShapeError
from .layers import Branches, Sequential

__version__ = "0.1.0"
__all__ = [
    "BackendError",
    "Branches",
    "CnncoreError",
    "DTypeError",
    "FormatError",
    "Sequential",
    "ShapeError",
    "data",
    "layers",
    "models",
    "ops",
    "use_backend",
]
