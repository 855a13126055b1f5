"""Whatever a function of `isoplast.statistics` is given, it answers or refuses it in one line."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from isoplast import statistics
from isoplast._core.errors import IsoplastError

SCORES = np.random.default_rng(0).random((3, 4))
BY_SEED = {0: 0.9, 1: 0.7, 2: 0.8}
OTHERS = {0: 0.5, 1: 0.6, 2: 0.8}
FRAME = pl.DataFrame(
    [
        {"run_id": f"{label}-{seed}", "label": label, "seed": seed, "task": task, "score": score}
        for label in ("a", "b")
        for (seed, task), score in np.ndenumerate(SCORES)
    ]
).with_columns(environment=pl.lit("pong"), chance=0.1)
RUNS = FRAME.select("run_id", "label", "seed", state=pl.lit("done")).unique(maintain_order=True)
HIGHER = {"higher_is_better": True}
OF_FRAME: dict[str, Any] = {"frame": FRAME, "runs": RUNS, "by": "label", "tasks": 4, "chance": 0.1, **HIGHER}
INTERVAL = {"confidence": 0.95}
POWER = {**INTERVAL, "power": 0.8}

# The arguments of each function, every one of them.
GOOD: dict[str, dict[str, Any]] = {
    **{name: {"scores": SCORES} for name in ("area", "average", "interquartile_mean", "slope")},
    **{name: {"p": [0.1, 0.2]} for name in ("holm", "false_discovery_rate")},
    "aggregate": {
        **{"scores": SCORES, "statistic": statistics.interquartile_mean, "independent_tasks": True},
        **{"resamples": 100, "rng": 0, **INTERVAL},
    },
    "change": {"scores": SCORES, "k": 1},
    "compare": {"values": BY_SEED, "others": OTHERS, **HIGHER, **POWER},
    "compare_all": {
        **{"methods": {"a": BY_SEED, "b": OTHERS}, "baseline": "a", "correction": "holm"},
        **{**HIGHER, **POWER},
    },
    "curve": {"scores": SCORES, **INTERVAL},
    "fill_failures": {"scores": SCORES, "chance": 0.1, **HIGHER},
    "forward_transfer": {"scores": SCORES, "fresh": SCORES, **HIGHER},
    "last": {"scores": SCORES, "k": 1},
    "mean": {"values": [0.1, 0.2], **INTERVAL},
    "method_scores": OF_FRAME,
    "method_table": {
        **{**OF_FRAME, "statistic": statistics.average, "baseline": "a", "correction": "holm"},
        **INTERVAL,
    },
    "minimum_detectable_effect": {"deviation": 1.0, "seeds": 3, **POWER},
    "normalised_scores": {"frame": FRAME, "single": FRAME.with_columns(score=pl.col("score") + 1)},
    "performance_profile": {"scores": SCORES, "thresholds": [0.5], **HIGHER, **INTERVAL},
    "probability_of_improvement": {"scores": SCORES, "others": SCORES, **HIGHER, **INTERVAL},
}
HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 100.5, math.nan, math.inf, 1j, "x", "", b"x", object(), np.mean, len),
    *([], {}, ["a"], [[1.0], [1.0, 2.0]], [[10**400]], [[1j]], [[0.1, None]], [math.nan], np.ones((2, 2, 2))),
    *({"a": 1.0}, {0: "x"}, {0: None}, {0: [1.0]}, {None: 1.0, 0: 2.0}, {"a": {"b": 1.0}, "b": 3}),
    *(torch.ones(2, 2, requires_grad=True), pl.DataFrame(), FRAME.drop("task"), RUNS.drop("seed")),
    FRAME.with_columns(score=pl.lit("x")),
    FRAME.with_columns(task=pl.lit(None)),
    FRAME.with_columns(seed=pl.lit(0.5)),
    FRAME.with_columns(chance=pl.lit("x")),
)


def test_every_argument_of_every_function_is_tried() -> None:
    functions = {name: getattr(statistics, name) for name in statistics.__all__ if name[0].islower()}
    assert {name: set(arguments) for name, arguments in GOOD.items()} == {
        name: set(inspect.signature(one).parameters) for name, one in functions.items()
    }
    for name, arguments in GOOD.items():
        functions[name](**arguments)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "argument"), [(name, one) for name, given in GOOD.items() for one in given])
def test_a_wrong_value_is_refused_in_one_line(name: str, argument: str) -> None:
    refused = 0
    for value in HOSTILE:  # anything but IsoplastError, a warning too, fails
        try:
            getattr(statistics, name)(**{**GOOD[name], argument: value})
        except IsoplastError:
            refused += 1
    assert refused > len(HOSTILE) / 2


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("change", {"k": 1.5}, "k is 1.5: give a whole number, 1 or more"),
        ("last", {"k": 2.5}, "k is 2.5"),
        ("last", {"k": True}, "k is True"),
        ("aggregate", {"statistic": np.mean}, r"statistic gives the shape \(\) for scores \(1, 3, 4\)"),
        ("aggregate", {"statistic": 5}, "statistic is 5: give a function"),
        ("aggregate", {"rng": -1}, "rng is -1"),
        ("aggregate", {"resamples": 100.5}, "resamples is 100.5"),
        ("aggregate", {"independent_tasks": "no"}, "independent_tasks is 'no': say True or False"),
        ("average", {"scores": [[1j]]}, "scores must be numbers"),
        ("interquartile_mean", {"scores": [[0.5, math.nan]]}, "1 of 2 scores are not finite"),
        ("fill_failures", {"chance": "x"}, "chance must be numbers"),
        ("performance_profile", {"thresholds": ["a"]}, "thresholds must be numbers"),
        ("holm", {"p": ["a"]}, "p values must be numbers"),
        ("compare", {"values": [0.9, 0.8]}, "values must map seeds to numbers"),
        ("mean", {"confidence": "95 %"}, "confidence is '95 %'"),
        ("minimum_detectable_effect", {"seeds": 2.5}, "seeds is 2.5"),
        ("method_scores", {"frame": {"score": [1.0]}}, "frame is {'score'.*: give the polars frame"),
        ("method_scores", {"frame": HOSTILE[-4]}, "column 'score' of frame holds String"),
        ("method_scores", {"tasks": 2.5}, "tasks is 2.5"),
        ("method_table", {"statistic": np.mean}, r"must map \(seeds, tasks\) to \(seeds,\), as average"),
        ("method_table", {"baseline": ["a"]}, "unknown method"),
        ("method_table", {"baseline": None, "correction": "none"}, "unknown correction 'none'"),
    ],
)
def test_the_message_names_the_value(name: str, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(IsoplastError, match=words):
        getattr(statistics, name)(**{**GOOD[name], **wrong})
