"""Data sets, and the streams of tasks made from them.

Example:
    >>> data = load_data("digits", samples=1280)
    >>> tasks = stream("random-labels", data, tasks=24, seed=0)
    >>> task = tasks.task(0)
"""

from __future__ import annotations

from isoplast.data import Dataset, data_names, load_data
from isoplast.streams._base import DataStream, Stream, Task, names, register, stream
from isoplast.streams._random_labels import RandomLabels

__all__ = [
    "DataStream",
    "Dataset",
    "RandomLabels",
    "Stream",
    "Task",
    "data_names",
    "load_data",
    "names",
    "register",
    "stream",
]
