"""Reading images and varying them: `cc.data.mnist10k()`, `cc.data.cifar10(folder)`, `cc.data.shift(2)`."""

from .augment import shift
from .cifar import cifar10, cifar100, read_cifar
from .folder import class_names, image_folder
from .idx import read_idx
from .mnist import mnist, mnist10k, read_digits
from .svhn import read_svhn, svhn

__all__ = [
    "cifar10",
    "cifar100",
    "class_names",
    "image_folder",
    "mnist",
    "mnist10k",
    "read_cifar",
    "read_digits",
    "read_idx",
    "read_svhn",
    "shift",
    "svhn",
]
