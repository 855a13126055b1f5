"""The lens: what each method holds of the spectrum, from rows in which every number is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
import synthetic

from isoplast._core.errors import IsoplastError
from isoplast.cli.studies._spectra import write_spectra
from isoplast.report.figures._spectra import histograms
from isoplast.report.pages._spectra import Reading, readings, spectra_page, table

START = (1.0, 1.0, 1.0)
Spectrum = tuple[float, float, float]  # of every hidden matrix: smallest, middle and largest singular value


def row(method: str, label: str, task: int, seed: int, spectrum: Spectrum, accuracy: float) -> dict[str, Any]:
    """Two hidden matrices with this spectrum, and a head that must not count."""
    head = (1e-2, 1.0, 1e3)
    matrices = [spectrum, spectrum, head]
    return {
        "method": method,
        "label": label,
        "run_id": f"{label}-{seed}",
        "task": task,
        "accuracy": accuracy,
        "sigma_min": [matrix[0] for matrix in matrices],
        "sigma_max": [matrix[2] for matrix in matrices],
        "sigma_mean_square": [float(np.mean(np.square(matrix))) for matrix in matrices],
        "sigma_count": [3, 3, 3],
        "sigma_quantiles": [list(matrix) for matrix in matrices],
        "condition_number": [matrix[2] / matrix[0] if matrix[0] else math.inf for matrix in matrices],
        "effective_rank": [1.5, 1.5, 3.0],
        "gram_deviation": [float(np.sum((np.square(matrix) - 1) ** 2)) for matrix in matrices],
        "dormant": [0.2, 0.4],
        "ntk_condition_number": 100.0 ** (1 + seed),
        "ntk_participation_rank": 10.0,
        "ntk_size": 40,
        "plasticity_learned": 0.3,
    }


def result(method: str, spectrum: Spectrum, label: str = "", seeds: int = 2) -> list[dict[str, Any]]:
    """Runs of four tasks that end with this spectrum."""
    named = label or {"adam": "Adam", "adamo": "AdamO"}.get(method, method)
    return [
        row(method, named, task, seed, START if task < 0 else spectrum, 0.5 + 0.1 * task + 0.02 * seed)
        for seed in range(seeds)
        for task in range(-1, 4)
    ]


ADAM: Spectrum = (0.01, 1.0, 100.0)


def read(*results: list[dict[str, Any]]) -> dict[str, Reading]:
    rows = [row for rows in results for row in rows]
    return {reading.title: reading for reading in readings(pl.DataFrame(rows))}


def test_means_over_seeds_and_the_last_three_tasks_without_the_head() -> None:
    found = read(result("adam", ADAM))["adam"]
    assert (found.seeds, found.verdict) == (2, "the baseline")
    assert found.accuracy_low == pytest.approx(0.7)
    assert found.accuracy_high == pytest.approx(0.72)
    assert found.accuracy == pytest.approx(0.71)
    assert (found.largest, found.smallest) == (pytest.approx(100), pytest.approx(0.01))
    assert found.mean_square == pytest.approx(10001.0001 / 3)
    assert found.condition_number == pytest.approx(1e4)
    assert found.effective_rank == pytest.approx(0.5)
    assert found.gram_deviation == pytest.approx(2 * (9999.0**2 + 0.9999**2))
    assert found.dormant == pytest.approx(0.3)
    assert found.ntk_condition_number == pytest.approx(1e3)  # geometric: of 1e2 and 1e4
    assert found.ntk_participation == pytest.approx(0.25)
    assert found.drift["largest"] == pytest.approx(math.log(100))
    assert found.drift["mean square"] == pytest.approx(math.log(10001.0001 / 3) / 2)
    assert found.drift["all"] == pytest.approx(math.log(100) * math.sqrt(2 / 3))
    assert sorted(set(found.after)) == list(ADAM)
    assert len(found.after) == 2 * 2 * 3


@pytest.mark.parametrize(
    ("method", "spectrum", "holds", "verdict"),
    [
        ("adamo", (0.9, 1.0, 1.1), ["largest", "mean square", "all"], "agrees"),
        ("adamo", (1e-9, 1.0, 1.1), ["largest", "mean square"], "does not hold all"),
        ("spectral-norm", (0.001, 1.0, 1.1), ["largest", "mean square"], "holds mean square too"),
        ("redo", ADAM, [], "agrees"),
        ("redo", (1.0, 1.0, 1.0), ["largest", "mean square", "all"], "holds largest, mean square, all too"),
    ],
)
def test_the_verdict_compares_the_claim_with_the_drift(
    method: str, spectrum: Spectrum, holds: list[str], verdict: str
) -> None:
    reading = next(
        one for one in read(result("adam", ADAM), result(method, spectrum)).values() if one.name == method
    )
    assert list(reading.holds) == holds
    assert reading.verdict == verdict


def test_half_of_adams_drift_is_half_removed() -> None:
    reading = read(result("adam", ADAM), result("adamo", (0.1, 1.0, 10.0)))["adamo"]
    assert reading.removed["largest"] == pytest.approx(0.5)
    assert reading.removed["all"] == pytest.approx(0.5)


def test_methods_of_one_method_are_told_apart_and_sorted_by_claim() -> None:
    found = read(
        result("adam", ADAM),
        result("redo", ADAM),
        result("adamo", (0.9, 1.0, 1.1)),
        result("adamo", (0.99, 1.0, 1.01), "AdamO, isometry 0.1"),
    )
    assert list(found)[:2] == ["adamo", "adamo, isometry 0.1"]
    assert list(found)[-1] == "adam"


def test_runs_without_a_finished_task_do_not_count() -> None:
    with pytest.raises(IsoplastError, match="no finished task of adam"):
        readings(pl.DataFrame(result("adamo", ADAM)))
    unfinished = [one | {"run_id": "other"} for one in result("adam", ADAM, seeds=1) if one["task"] < 0]
    assert read(result("adam", ADAM), unfinished)["adam"].seeds == 2


def test_the_table_has_a_cell_for_every_column_and_infinity_is_a_word() -> None:
    found = list(read(result("adam", (0.0, 1.0, 100.0)), result("adamo", (0.9, 1.0, 1.1))).values())
    head, rule, *rows = table(found).splitlines()
    assert {line.count(" | ") for line in (head, *rows)} == {16}
    assert rule.count("|") == 18
    assert len(rows) == 2
    assert "| inf |" in rows[1]
    assert "nan" not in table(found)
    text = spectra_page(found, Path("figure.svg"), "isoplast spectra", "A scope.")
    assert "1 of 1 methods hold exactly what they are said to hold" in text
    assert "(figure.svg)" in text


def test_the_histograms_are_well_formed_and_inside_their_panels() -> None:
    found = list(
        read(
            result("adam", (0.0, 1.0, 1e9)),
            result("adamo", (0.9, 1.0, 1.1), "AdamO, <b>&"),
            result("redo", START),
        ).values()
    )
    root = ElementTree.fromstring(histograms(found))
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    panels = root.findall(f"{space}g")
    assert len(panels) == 3
    assert [panel.find(f"{space}text").text for panel in panels] == [one.title for one in found]  # type: ignore[union-attr]
    width = float(root.get("viewBox", "").split()[2])
    for panel in panels:
        drawn = " ".join(path.get("d", "") for path in panel.iter(f"{space}path"))
        numbers = [
            float(word)
            for word in drawn.replace("M", " ")
            .replace("V", " ")
            .replace("H", " ")
            .replace("h", " ")
            .replace("Z", " ")
            .split()
        ]
        assert all(math.isfinite(number) and 0 <= number <= width for number in numbers)


def test_the_command_writes_the_page_and_its_figure(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path / "study", ["Adam", "AdamO"], seeds=2, tasks=12, samples=1280)
    target = write_spectra(study)
    assert target == study / "methods-through-isometry.md"
    text = target.read_text(encoding="utf-8")
    assert "(methods-through-isometry.svg)" in text
    assert "Random labels on digits (1280 images), 12 tasks of" in text
    assert "2 seeds" in text
    assert "| `adamo` | all |" in text
    ElementTree.parse(target.with_suffix(".svg"))
    elsewhere = write_spectra(study, tmp_path / "docs" / "page.md")
    assert (tmp_path / "docs" / "page.svg").exists()
    assert "(page.svg)" in elsewhere.read_text(encoding="utf-8")
