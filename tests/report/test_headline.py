"""The headline says what the data say."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic

from isoplast.report.data._arms import Arm, arms
from isoplast.report.data._headline import headline
from isoplast.study import load_study


def study(parent: Path, *curves: list[float], seeds: int = 1) -> list[Arm]:
    """A study of one arm per curve, named A, B, ..."""
    for index, curve in enumerate(curves):
        for seed in range(seeds):
            run = synthetic.specification("ABCDEFGH"[index], seed, tasks=len(curve), lr=1e-3 * (index + 1))
            synthetic.write_run(parent, run, curve.__getitem__)
    return sorted(arms(load_study(parent)), key=lambda arm: arm.label)


def test_the_demo(tmp_path: Path) -> None:
    found = arms(load_study(synthetic.write_study(tmp_path)))
    assert headline(found) == (
        "Adam falls from 0.92 to 0.11 within 11 tasks; AdamW falls from 0.91 to 0.11 within 11 tasks; "
        "AdamO stays at 0.89 or above; Adam, then AdamO from task 12 (rescue) climbs from 0.11 after 12 "
        "tasks with Adam to 0.94 after 12 more with AdamO (24 tasks, mean over 2 seeds; chance is 0.10)."
    )


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ([0.9, 0.5, 0.15, 0.12], "falls from 0.90 to 0.15 within 3 tasks"),
        ([0.9, 0.85, 0.92], "stays at 0.85 or above"),
        ([0.9, 0.6, 0.5], "declines from 0.90 to 0.50"),
        ([0.9, 0.3, 0.88], "dips to 0.30 after 2 tasks and ends at 0.88"),
        ([0.12, 0.11, 0.13], "never gets past 0.13"),
        ([0.12, 0.5, 0.8], "gets from 0.12 to 0.80"),
        ([0.7], "reaches 0.70 on its one task"),
    ],
)
def test_every_fate_has_its_words(tmp_path: Path, curve: list[float], words: str) -> None:
    said = headline(study(tmp_path, curve))
    tasks = f"{len(curve)} task" + "s" * (len(curve) > 1)
    assert said == f"A {words} ({tasks}, one seed; chance is 0.10)."


def test_many_arms_are_counted_by_fate(tmp_path: Path) -> None:
    found = study(tmp_path, *[[0.9, 0.1]] * 4, *[[0.9, 0.9]] * 3, seeds=2)
    said = headline(found)
    assert "Of 7 arms" in said
    assert "4 lost more than 90 % of it (“A”, “B”, “C” and 1 more: last task 0.11)" in said
    assert "3 kept at least 80 % of it throughout (“E”, “F”, “G”: last task 0.91)" in said
