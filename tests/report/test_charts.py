"""Static charts: well-formed SVG that shows what the data say."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import synthetic

from isoplast._core.errors import IsoplastError
from isoplast.report import method_runs, score_chart, sweep_chart
from isoplast.study import load_study

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def curves(svg: str) -> list[list[tuple[float, float]]]:
    """The points of every curve in the plot, without the legend's samples."""
    paths = [node.get("d", "") for node in parsed(svg).iter(f"{SVG}path") if "line" in node.get("class", "")]
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]
        for path in paths
        if "h" not in path
    ]


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in parsed(svg).iter(f"{SVG}text")]


def test_accuracy_chart_has_every_method_its_chance_line_and_its_change_of_method(tmp_path: Path) -> None:
    svg = score_chart(method_runs(load_study(synthetic.write_study(tmp_path))), title="A < B")
    assert {"A < B", "chance 0.1", "Adam → AdamO", *synthetic.METHODS} <= set(texts(svg))
    drawn = curves(svg)
    assert [len(curve) for curve in drawn] == [24] * 4
    assert sum("band" in node.get("class", "") for node in parsed(svg).iter(f"{SVG}path")) == 4
    adam, adamo = drawn[0], drawn[2]
    assert all(left[0] < right[0] for left, right in itertools.pairwise(adam))
    assert adam[-1][1] > adamo[-1][1]  # lower accuracy is further down, where y is larger


def test_charts_are_styled_for_both_themes_and_load_nothing(tmp_path: Path) -> None:
    svg = score_chart(method_runs(load_study(synthetic.write_study(tmp_path, ["Adam"], seeds=1, tasks=1))))
    assert "@media(prefers-color-scheme:dark)" in svg
    assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]


def test_the_legend_wraps_and_the_drawing_grows(tmp_path: Path) -> None:
    short = score_chart(method_runs(load_study(synthetic.write_study(tmp_path / "a", ["Adam"], 1, 2))))
    names = [f"a result with quite a long name {index}" for index in range(4)]
    for index, name in enumerate(names):
        run = synthetic.specification(name, 0, tasks=2, lr=1e-3 * (index + 1))
        synthetic.write_run(tmp_path / "b", run, synthetic.staying)
    long = score_chart(method_runs(load_study(tmp_path / "b")))
    height = [int(parsed(svg).get("viewBox", "").split()[3]) for svg in (short, long)]
    assert height[1] - height[0] == 24
    assert set(names) <= set(texts(long))


def test_sweep_chart_has_a_line_per_learning_rate_and_the_others_as_levels(tmp_path: Path) -> None:
    for lr in (1e-3, 3e-3):
        for strength in (1e-3, 1e-2, 1e-1):
            for seed in range(2):
                run = synthetic.specification(
                    f"AdamO, isometry {strength:g}",
                    seed,
                    2,
                    lr=lr,
                    method={"name": "adamo", "isometry": strength},
                )
                synthetic.write_run(tmp_path, run, lambda task, strength=strength: 0.5 + strength)  # type: ignore[misc]
    synthetic.write_run(tmp_path, synthetic.specification("Adam", 0, 2), lambda task: 0.3)
    svg = sweep_chart(method_runs(load_study(tmp_path)))
    assert {"lr 0.001", "lr 0.003", "Adam", "0.001", "0.01", "0.1"} <= set(texts(svg))
    low, high = curves(svg)
    assert len(low) == len(high) == 3
    assert low[0][1] > low[1][1] > low[2][1]
    gaps = [right[0] - left[0] for left, right in itertools.pairwise(low)]
    assert gaps[0] == pytest.approx(
        gaps[1], abs=0.11
    )  # decades are equally wide, up to the rounding to 0.1 px


def test_a_sweep_of_nothing_is_refused(tmp_path: Path) -> None:
    found = method_runs(load_study(synthetic.write_study(tmp_path, ["Adam"], 1, 1)))
    with pytest.raises(IsoplastError, match="'isometry' above 0"):
        sweep_chart(found)
