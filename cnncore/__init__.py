"""cnncore: convolutional networks with every gradient written by hand. See README.md."""

from . import ops
from .backends.select import use_backend
from .errors import BackendError, CnncoreError, DTypeError, FormatError, ShapeError

__version__ = "0.1.0"
__all__ = ["BackendError", "CnncoreError", "DTypeError", "FormatError", "ShapeError", "ops", "use_backend"]
