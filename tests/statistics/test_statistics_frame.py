"""From a frame to scores by method: nothing is paired by row, and nothing is dropped without a word."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from isoplast._core.errors import IsoplastError
from isoplast.statistics import (
    aggregate,
    average,
    change,
    compare,
    compare_all,
    last,
    mean,
    method_scores,
    method_table,
)

TASKS = 4


def frame(methods: dict[str, dict[int, list[float]]], **columns: Any) -> pl.DataFrame:
    """A frame from method -> seed -> the scores of its tasks, preceded by the untrained network's row."""
    rows = [
        {"run_id": f"{label}-{seed}", "label": label, "seed": seed, "task": task, "score": score}
        for label, seeds in methods.items()
        for seed, scores in seeds.items()
        for task, score in enumerate([0.0, *scores], start=-1)
    ]
    return pl.DataFrame(rows, schema_overrides={"score": pl.Float64}).with_columns(**columns)


def states(methods: dict[str, dict[int, str]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"run_id": f"{label}-{seed}", "label": label, "seed": seed, "state": state}
            for label, seeds in methods.items()
            for seed, state in seeds.items()
        ]
    )


def study(seeds: int = 12) -> dict[str, dict[int, list[float]]]:
    rng = np.random.default_rng(0)
    level = {"adam": 0.5, "adamo": 0.7, "muon": 0.6}
    common = 0.1 * rng.normal(size=seeds)
    return {
        label: {seed: (base + common[seed] + 0.02 * rng.normal(size=TASKS)).tolist() for seed in range(seeds)}
        for label, base in level.items()
    }


def test_arrays_are_seeds_by_tasks_whatever_the_order_of_the_rows() -> None:
    made = study()
    rows = frame(made).sample(fraction=1.0, shuffle=True, seed=1)
    found = method_scores(rows, higher_is_better=True)
    assert set(found) == set(made)
    for label, scores in found.items():
        assert scores.seeds == tuple(range(12))
        assert (scores.failed, scores.unfinished) == ((), ())
        np.testing.assert_array_equal(scores.values, list(made[label].values()))


def test_a_table_says_what_the_functions_say() -> None:
    made = study()
    table = method_table(frame(made), higher_is_better=True, baseline="adam")
    assert table["method"].to_list() == ["adamo", "muon", "adam"]
    assert table["exploratory"].to_list() == [False] * 3
    arrays = {label: np.array(list(seeds.values())) for label, seeds in made.items()}
    compared = compare_all(
        {label: dict(enumerate(average(scores))) for label, scores in arrays.items()},
        "adam",
        higher_is_better=True,
    )
    for row in table.rows(named=True):
        scores = arrays[row["method"]]
        for name, one in (
            ("score", mean(average(scores))),
            ("iqm", aggregate(scores)),
            ("change", mean(change(scores))),
        ):
            assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == (one.value, one.low, one.high)
        if row["method"] == "adam":
            assert row["pairs"] == 0
            assert row["gain"] is row["p"] is row["detectable"] is None
            continue
        other = compared[row["method"]]
        assert (row["gain"], row["gain_low"], row["gain_high"]) == (
            other.gain.value,
            other.gain.low,
            other.gain.high,
        )
        assert (row["pairs"], row["p"], row["p_adjusted"]) == (12, other.p, other.p_adjusted)
        assert (row["effect_size"], row["detectable"]) == (other.effect_size, other.detectable)


def test_the_statistic_and_the_direction_decide_the_ranks() -> None:
    made = {"a": {0: [0.9, 0.1], 1: [0.9, 0.2]}, "b": {0: [0.4, 0.3], 1: [0.4, 0.3]}}

    def order(**settings: Any) -> list[str]:
        return method_table(frame(made), **settings)["method"].to_list()

    assert order(higher_is_better=True) == ["a", "b"]
    assert order(higher_is_better=False) == ["b", "a"]
    assert order(higher_is_better=True, statistic=last) == ["b", "a"]
    table = method_table(frame(made), higher_is_better=False, baseline="a")
    assert table.filter(method="b")["gain"].item() > 0


def test_a_failed_run_counts_as_chance_and_is_counted() -> None:
    made = study()
    made["adamo"][3] = made["adamo"][3][:2]  # ended early
    made["adamo"][5][3] = math.nan  # diverged
    made["muon"][0][1] = -math.inf
    found = method_scores(frame(made, chance=0.1), higher_is_better=True)
    assert (found["adam"].failed, found["adamo"].failed, found["muon"].failed) == ((), (3, 5), (0,))
    np.testing.assert_array_equal(found["adamo"].values[3], [*made["adamo"][3], 0.1, 0.1])
    assert found["adamo"].values[5, 3] == 0.1
    assert found["muon"].values[0, 1] == 0.1
    table = method_table(frame(made, chance=0.1), higher_is_better=True)
    assert dict(table.select("method", "failed").iter_rows()) == {"adam": 0, "adamo": 2, "muon": 1}
    assert table["seeds"].to_list() == [12] * 3


def test_chance_may_differ_between_tasks() -> None:
    made = {"a": {0: [0.9, 0.9, 0.9], 1: [0.9]}}
    chance = pl.when(pl.col("task") == 1).then(0.2).otherwise(0.1)
    found = method_scores(frame(made, chance=chance), higher_is_better=True)["a"]
    np.testing.assert_array_equal(found.values[1], [0.9, 0.2, 0.1])
    found = method_scores(frame(made, chance=chance), higher_is_better=True, chance=0.0)["a"]
    np.testing.assert_array_equal(found.values[1], [0.9, 0.0, 0.0])


def test_where_nobody_knows_chance_a_failure_is_refused() -> None:
    rows = frame({"a": {0: [0.9, 0.9], 1: [0.9]}})
    unknown = pl.lit(None, dtype=pl.Float64)
    for one in (rows, rows.with_columns(chance=unknown), rows.with_columns(chance=pl.lit(math.nan))):
        with pytest.raises(IsoplastError, match="method 'a' has failed runs and no chance level"):
            method_scores(one, higher_is_better=True)


def test_states_tell_the_failed_from_the_unfinished() -> None:
    made = {"a": {0: [0.9, 0.9], 1: [0.9]}, "b": {0: [0.8, 0.8], 1: [0.8], 2: [0.1, 0.1]}}
    runs = states(
        {
            "a": {0: "done", 1: "failed", 2: "failed", 3: "waiting"},
            "b": {0: "done", 1: "running", 2: "interrupted"},
            "c": {0: "waiting", 1: "running"},
        }
    )
    found = method_scores(frame(made, chance=0.1), runs=runs, higher_is_better=True)
    assert list(found) == ["a", "b", "c"]
    # seed 2 failed before its first task: it has no row, and counts all the same
    assert (found["a"].seeds, found["a"].failed, found["a"].unfinished) == ((0, 1, 2), (1, 2), (3,))
    np.testing.assert_array_equal(found["a"].values, [[0.9, 0.9], [0.9, 0.1], [0.1, 0.1]])
    assert (found["b"].seeds, found["b"].failed, found["b"].unfinished) == ((0,), (), (1, 2))
    assert (found["c"].seeds, found["c"].unfinished) == ((), (0, 1))
    table = method_table(frame(made, chance=0.1), runs=runs, higher_is_better=True, baseline="b")
    shown = table.select("method", "seeds", "failed", "unfinished", "pairs").rows()
    assert shown == [("b", 1, 0, 2, 0), ("a", 3, 2, 1, 1), ("c", 0, 0, 2, 0)]
    assert table.filter(method="c")["score"].item() is None
    # a baseline that has not finished leaves the comparison open
    assert (
        method_table(frame(made, chance=0.1), runs=runs, higher_is_better=True, baseline="c")[
            "gain"
        ].null_count()
        == 3
    )


def test_a_failure_that_every_run_shares_is_counted() -> None:
    made = {"a": {0: [0.9], 1: [0.8]}}
    runs = states({"a": {0: "failed", 1: "failed"}})
    rows = frame(made, chance=0.1)
    assert method_scores(rows, runs=runs, higher_is_better=True)["a"].failed == (0, 1)
    found = method_scores(rows, tasks=3, higher_is_better=True)["a"]
    assert found.failed == (0, 1)
    np.testing.assert_array_equal(found.values, [[0.9, 0.1, 0.1], [0.8, 0.1, 0.1]])


def test_methods_are_paired_by_seed() -> None:
    made = study()
    made["adamo"] = {seed: made["adamo"][seed] for seed in (9, 3, 4, 11, 0)}
    table = method_table(frame(made), higher_is_better=True, baseline="adam")
    ours, theirs = (
        {seed: float(np.mean(scores)) for seed, scores in made[label].items()} for label in ("adamo", "adam")
    )
    row = table.filter(method="adamo").row(0, named=True)
    expected = compare(ours, theirs, higher_is_better=True)
    assert row["pairs"] == 5
    assert row["gain_low"] == pytest.approx(expected.gain.low)
    assert row["exploratory"]


@pytest.mark.parametrize(("common", "exploratory"), [(9, True), (10, False)])
def test_a_comparison_of_few_pairs_is_exploratory_however_many_seeds(common: int, exploratory: bool) -> None:
    made = {label: seeds for label, seeds in study(20).items() if label != "muon"}
    made["adam"] = {seed: made["adam"][seed] for seed in range(10)}
    made["adamo"] = {seed: made["adamo"][seed] for seed in range(10 - common, 20 - common)}
    table = method_table(frame(made), higher_is_better=True, baseline="adam")
    assert table.select("method", "seeds", "exploratory").rows() == [
        ("adamo", 10, exploratory),
        ("adam", 10, False),
    ]
    assert table["pairs"][0] == common
    assert not method_table(frame(made), higher_is_better=True)["exploratory"].any()


def test_one_seed_and_one_task_give_a_table_with_holes() -> None:
    table = method_table(frame({"a": {0: [0.9]}, "b": {0: [0.5]}}), higher_is_better=True, baseline="b")
    row = table.row(0, named=True)
    assert (row["method"], row["score"], row["iqm"], row["gain"]) == ("a", 0.9, 0.9, pytest.approx(0.4))
    holes = ("score_low", "iqm_high", "change", "gain_low", "effect_size", "p", "p_adjusted")
    assert [row[name] for name in holes] == [None] * len(holes)
    assert row["detectable"] == math.inf
    numbers = table.drop("method", "seeds", "failed", "unfinished", "exploratory", "pairs")
    assert set(numbers.dtypes) == {pl.Float64}


def test_another_column_may_name_the_method() -> None:
    made = study(3)
    rows = frame(made).with_columns(lr=pl.lit(0.1))
    other = rows.with_columns(pl.format("{}-fast", "run_id").alias("run_id"), lr=pl.lit(0.3))
    both = pl.concat([rows, other])
    with pytest.raises(IsoplastError, match="method 'adam' has two runs with seed 0"):
        method_scores(both, higher_is_better=True)
    named = both.with_columns(setting=pl.format("{}, lr {}", "label", "lr"))
    assert len(method_scores(named, by="setting", higher_is_better=True)) == 6


def test_a_frame_that_went_through_csv_says_the_same(tmp_path) -> None:
    made = study(3)
    made["muon"][1][2] = math.nan
    rows = frame(made, chance=0.1, primary=pl.lit("accuracy"))
    rows.write_csv(tmp_path / "study.csv")
    again = pl.read_csv(tmp_path / "study.csv")
    settings: dict[str, Any] = {"higher_is_better": True, "baseline": "adam"}
    assert_frame_equal(method_table(again, **settings), method_table(rows, **settings))


def test_what_cannot_be_compared_is_refused() -> None:
    rows = frame(study(2), primary=pl.lit("accuracy"))

    def refused(message: str, one: pl.DataFrame, **settings: Any) -> None:
        with pytest.raises(IsoplastError, match=message):
            method_table(one, higher_is_better=True, **settings)

    refused("frame lacks the column 'score'", rows.drop("score"))
    refused("frame lacks the column 'method'", rows, by="method")
    refused("runs lacks the column 'state'", rows, runs=states({"adam": {0: "done"}}).drop("state"))
    refused("no finished task", rows.filter(pl.col("task") < 0))
    mixed = pl.when(pl.col("label") == "adam").then(pl.lit("loss")).otherwise(pl.lit("accuracy"))
    refused("several metrics, accuracy, loss", rows.with_columns(primary=mixed))
    unmeasured = (
        pl.when((pl.col("task") == 2) & (pl.col("label") == "muon")).then(None).otherwise(pl.col("score"))
    )
    refused("'muon-0' has no score for task 2", rows.with_columns(score=unmeasured))
    refused("several rows", pl.concat([rows, rows]))
    refused("is not among the runs", rows, runs=states({"adam": {0: "done"}}))
    shorter = {**study(2), "sgd": {0: [0.1, 0.2]}}
    done = states({label: dict.fromkeys(seeds, "done") for label, seeds in shorter.items()})
    refused("run 'sgd-0' is done, and 2 of 4 tasks are here", frame(shorter), runs=done)
    refused("run 'sgd-0' is done, and 0 of 4 tasks are here", rows, runs=done)
    refused("did you mean 'adam'", rows, baseline="adan")
    with pytest.raises(IsoplastError, match="higher_is_better is None"):
        method_table(rows, higher_is_better=None)  # type: ignore[arg-type]
