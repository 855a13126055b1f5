"""Data sets: official files, read and verified.

Example:
    >>> load_data("digits", samples=1280).classes
    10
"""

from isoplast.data._load import Dataset, data_names, load_data

__all__ = ["Dataset", "data_names", "load_data"]
