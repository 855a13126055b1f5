"""Returns of different games on one scale."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from isoplast._core.errors import IsoplastError
from isoplast.statistics import method_scores, normalised_scores


def frame(*rows: tuple[str, int, str, float, float], **more: Any) -> pl.DataFrame:
    columns = ["run_id", "task", "environment", "score", "chance"]
    found = pl.DataFrame(rows, schema=columns, orient="row")
    return found.with_columns(pl.lit(value).alias(name) for name, value in more.items())


SINGLE = frame(
    ("a", -1, "pong", 1.0, 1.0),
    ("a", 0, "pong", 3.0, 1.0),
    ("a", 1, "pong", 10.0, 3.0),
    ("b", 0, "pong", 14.0, 3.0),
    ("c", 0, "snake", -5.0, -10.0),
)
MANY = frame(
    ("x", -1, "pong", 2.0, 2.0),
    ("x", 0, "pong", 12.0, 2.0),
    ("x", 1, "snake", -7.5, -10.0),
    ("x", 2, "pong", -3.0, 2.0),
    seed=0,
    label="PPO",
)


def test_a_random_policy_is_0_and_training_alone_is_1() -> None:
    found = normalised_scores(MANY, SINGLE)
    # pong: random 2, the mean of all seven; alone 12, the mean of the last tasks
    assert found["score"].to_list() == pytest.approx([0.0, 1.0, 0.5, -0.5])
    assert found["chance"].to_list() == [0.0] * 4
    assert found.drop("score", "chance").equals(MANY.drop("score", "chance"))
    scores = method_scores(found, higher_is_better=True)["PPO"]
    assert scores.values.tolist() == [pytest.approx([1.0, 0.5, -0.5])]


@pytest.mark.parametrize(
    ("many", "single", "words"),
    [
        (MANY.drop("environment"), SINGLE, "frame lacks the column 'environment'"),
        (MANY, SINGLE.drop("chance"), "single lacks the column 'chance'"),
        (MANY, MANY, "run 'x' of single has several environments"),
        (MANY, SINGLE.filter(pl.col("environment") == "pong"), "no run of single trained on 'snake'"),
        (MANY, SINGLE.with_columns(score=-20.0), "training on 'pong' alone scores -20, random actions 2"),
    ],
)
def test_where_there_is_no_scale_it_is_said_in_one_line(
    many: pl.DataFrame, single: pl.DataFrame, words: str
) -> None:
    with pytest.raises(IsoplastError, match=words) as raised:
        normalised_scores(many, single)
    assert "\n" not in str(raised.value)
