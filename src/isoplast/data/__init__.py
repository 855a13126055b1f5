"""Data sets: official files, read and verified, and arrays of one's own.

Example:
    >>> load_data("digits", samples=1280).classes
    10
    >>> data_spec("cifar10", samples=1000)
    Cifar10(samples=1000, test_samples=None, hold_out=None)
"""

from isoplast.data._cifar import Cifar10, Cifar100
from isoplast.data._dataset import Dataset
from isoplast.data._digits import Digits
from isoplast.data._download import NotHere, offline
from isoplast.data._file import File, save_data
from isoplast.data._mnist import FashionMnist, Mnist
from isoplast.data._spec import (
    DATA,
    DataSpec,
    data_names,
    data_reference,
    data_spec,
    load_data,
    register_data,
)
from isoplast.data._text import Text

__all__ = [
    "DATA",
    "Cifar10",
    "Cifar100",
    "DataSpec",
    "Dataset",
    "Digits",
    "FashionMnist",
    "File",
    "Mnist",
    "NotHere",
    "Text",
    "data_names",
    "data_reference",
    "data_spec",
    "load_data",
    "offline",
    "register_data",
    "save_data",
]
