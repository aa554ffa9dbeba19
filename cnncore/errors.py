"""What cnncore raises when it is given something it cannot compute.

Every one of them is a ValueError whose text reads `op: argument ... expected ... got ...`.
"""


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
