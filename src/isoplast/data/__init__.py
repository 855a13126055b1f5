"""Data sets: official files, read and verified.

Example:
    >>> load_data("digits", samples=1280).classes
    10
"""

from isoplast.data._load import Dataset, data_names, load_data
from isoplast.data._temp import DATA, DataSpec, data_spec

__all__ = ["DATA", "DataSpec", "Dataset", "data_names", "data_spec", "load_data"]
