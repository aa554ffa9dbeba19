"""Reading digits and varying them: `cc.data.mnist10k()`, `cc.data.shift(2)`."""

from .augment import shift
from .idx import read_idx
from .mnist import mnist, mnist10k, read_digits

__all__ = ["mnist", "mnist10k", "read_digits", "read_idx", "shift"]
