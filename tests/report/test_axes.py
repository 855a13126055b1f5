"""Axes fit what they show."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from isoplast.report import method_runs, score_chart
from isoplast.report.figures import _plotly as figures
from isoplast.report.figures._axes import share_scale
from isoplast.study import load_study

SHARES = st.floats(0, 1)


@settings(deadline=None)  # times say nothing on a busy machine
@given(SHARES, SHARES)
def test_a_scale_holds_its_values_and_wastes_little(one: float, other: float) -> None:
    low, high = sorted((one, other))
    scale = share_scale(low, high)
    assert scale.holds(low)
    assert scale.holds(high)
    assert 0 <= scale.bottom < scale.top <= 1
    # As far as the values reach, or 0.05, and a step at either end.
    assert scale.top - scale.bottom <= max(high - low, 0.05) + 2 * scale.step + 1e-9
    assert 2 <= len(scale.ticks) <= 8
    labels = [f"{tick:.{scale.digits}f}" for tick in scale.ticks]
    assert len(set(labels)) == len(labels)
    assert all(
        math.isclose(float(label), tick, abs_tol=1e-9)
        for label, tick in zip(labels, scale.ticks, strict=True)
    )


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.1, 0.93, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.96, 0.99, [0.95, 0.96, 0.97, 0.98, 0.99, 1.0]),
        (0.5, 0.5, [0.47, 0.48, 0.49, 0.5, 0.51, 0.52, 0.53]),
        (0.0, 0.0, [0.0, 0.01, 0.02, 0.03]),
        (0.3, 0.6, [0.3, 0.4, 0.5, 0.6]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert share_scale(low, high).ticks == pytest.approx(ticks)


def test_figures_of_good_methods_show_their_difference(tmp_path: Path) -> None:
    for index, base in enumerate((0.96, 0.97)):
        run = synthetic.specification(f"method {index}", 0, tasks=5, lr=1e-3 * (index + 1))
        synthetic.write_run(tmp_path, run, lambda task, base=base: base + 0.002 * task)
    found = method_runs(load_study(tmp_path))
    axis = figures.score_figure(found).layout.yaxis
    assert axis.range[0] > 0.9
    assert axis.range[1] < 1.01
    assert not figures.score_figure(found).layout.annotations  # chance lies below the axis
    assert "chance" not in score_chart(found)
    assert ">0.96<" in score_chart(found)


def test_shares_of_units_start_at_zero_and_end_where_they_do(tmp_path: Path) -> None:
    found = method_runs(load_study(synthetic.write_study(tmp_path, ["AdamO"], seeds=1, tasks=3)))
    highest = max(value for trace in figures.unit_figure(found, "dead").data for value in trace.y)
    axis = figures.unit_figure(found, "dead").layout.yaxis
    assert -0.05 < axis.range[0] <= 0
    assert highest <= axis.range[1] <= highest + 0.25
