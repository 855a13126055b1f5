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
    StreamInfo,
    TaskSequence,
    names,
    problem,
    register,
    stream,
    streams_table,
)
from isoplast.streams._classes import ClassIncremental, ClassPairs
from isoplast.streams._input_drift import InputDrift
from isoplast.streams._labels import LabelNoise, LabelShuffling
from isoplast.streams._language import LanguageStream
from isoplast.streams._objectives import Classification, Language, Objective, Regression
from isoplast.streams._permutation import OnlinePermutation, PixelPermutation
from isoplast.streams._random_labels import RandomLabels
from isoplast.streams._regression import BitFlipping, Sine, TargetShift, Teachers
from isoplast.streams._views import Task, View
from isoplast.streams._warm_start import WarmStart

__all__ = [
    "STREAMS",
    "BitFlipping",
    "ClassIncremental",
    "ClassPairs",
    "Classification",
    "Dataset",
    "InputDrift",
    "LabelNoise",
    "LabelShuffling",
    "Language",
    "LanguageStream",
    "Objective",
    "OnlinePermutation",
    "OpenProblem",
    "PixelPermutation",
    "Problem",
    "RandomLabels",
    "Regression",
    "Sine",
    "Stream",
    "StreamInfo",
    "TargetShift",
    "Task",
    "TaskSequence",
    "Teachers",
    "View",
    "WarmStart",
    "data_names",
    "load_data",
    "names",
    "problem",
    "register",
    "stream",
    "streams_table",
]
