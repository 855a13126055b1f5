"""The limits of the alarms are those that the recorded networks give, and hold for networks trained here."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from isoplast.diagnostics import inspect
from isoplast.diagnostics.health import _limits

ROOT = Path(__file__).parents[3]
TABLE = ROOT / "results" / "alarms" / "networks.csv.gz"

pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def alarms() -> Iterator[Any]:
    """The package of the calibration, which lies beside the benchmarks."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_the_limits_are_those_of_the_table(alarms: Any) -> None:
    analysis, table = alarms("alarms.analysis"), alarms("alarms.table")
    names = {"Limit": _limits.Limit}
    written = analysis.literal(analysis.looks(table.load(TABLE))).replace(": tuple[Limit, ...]", "")
    exec(written, names)  # the text that `analyse --write` puts into the module
    assert names["LIMITS"] == _limits.LIMITS


def test_the_table_is_what_it_says(alarms: Any) -> None:
    analysis, table = alarms("alarms.analysis"), alarms("alarms.table")
    rows = table.load(TABLE)
    seeds = {one.seed for one in alarms("alarms.plan").subjects()}
    assert len(seeds) == len(list(alarms("alarms.plan").subjects()))  # no two networks share one
    looks = analysis.looks(rows)
    assert {row["key"] for row in looks} <= {row["key"] for row in rows}
    assert all(row["ratio"] == pytest.approx(row["next"] / row["fresh"]) for row in looks)
    assert all(row["later"] <= row["ratio"] for row in looks)


@pytest.mark.parametrize(
    ("recipe", "lr", "history", "collapses"),
    [("adam", 1e-2, "random", True), ("adam", 1e-3, "one", False), ("adamo", 1e-3, "one", False)],
)
def test_a_held_out_network_is_judged_by_what_becomes_of_it(
    alarms: Any, recipe: str, lr: float, history: str, collapses: bool
) -> None:
    """Small networks of a family whose half did not fit the limits that are measured on it."""
    plan, recording = alarms("alarms.plan"), alarms("alarms.recording")
    problems, networks = alarms("alarms.problems"), alarms("alarms.networks")
    family = plan.Family("digits", "mlp:64x3", 512, 10, 64, 8, (8,))
    subject = plan.Subject(family, plan.Recipe(recipe, lr), history)
    of = problems.problem("digits", 512, True, None)
    torch.manual_seed(0)
    model = networks.network(family.network, of.shape, of.outputs, 0.0)
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = subject.recipe.optimizer(model)
    scores = []
    for index in range(8 if history == "random" else 1):
        task = of.task("random" if history == "random" else "true", index)
        scores.append(recording.learn(model, optimizer, subject, of, task, family.epochs)[0])
    found = inspect(model, task.inputs[:300], initial=initial)
    if collapses:
        assert scores[-1] < 0.7 * scores[0]
        assert not found.healthy
        assert any(one.rate for one in found.findings)
    else:
        assert scores[-1] > 0.9
        assert [one for one in found.findings if one.severity != "note"] == []


def test_a_share_of_few_has_a_wide_interval(alarms: Any) -> None:
    share = alarms("alarms.statistics").Share
    assert share(0, 89).interval == pytest.approx((0.0, 0.0406), abs=1e-4)  # 1 - 0.025^(1/89)
    assert share(5, 5).interval[1] == 1.0
    assert math.isnan(share(0, 0).value)
