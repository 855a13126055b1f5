"""Sequences of tasks made from data.

Example:
    >>> from isoplast.data import load_data
    >>> tasks = stream("random-labels", load_data("digits", samples=1280), tasks=24, seed=0)
    >>> task = tasks.task(0)
"""

from isoplast.data import Dataset, data_names, load_data  # their place is isoplast.data now
from isoplast.streams._base import (
    STREAMS,
    OpenProblem,
    Problem,
    Stream,
    Task,
    TaskSequence,
    names,
    problem,
    register,
    stream,
)
from isoplast.streams._objectives import Classification, Language, Objective, Regression
from isoplast.streams._random_labels import RandomLabels

__all__ = [
    "STREAMS",
    "Classification",
    "Dataset",
    "Language",
    "Objective",
    "OpenProblem",
    "Problem",
    "RandomLabels",
    "Regression",
    "Stream",
    "Task",
    "TaskSequence",
    "data_names",
    "load_data",
    "names",
    "problem",
    "register",
    "stream",
]
