"""A short version of the comparison with Stable-Baselines3, whose long one is in results/."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

ROOT = Path(__file__).parents[2]
TABLES = sorted((ROOT / "results").glob("ppo_*.csv"))


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import ppo_learns_like_stable_baselines as module

    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
@pytest.mark.parametrize(
    ("game", "steps", "needed"),
    [("cartpole", 16_384, ()), ("breakout", 8_192, ("gymnax", "minatar"))],
)
def test_with_equal_settings_the_bands_meet(
    comparison: Any, game: str, steps: int, needed: tuple[str, ...]
) -> None:
    for package in ("stable_baselines3", *needed):
        pytest.importorskip(package)
    torch.set_num_threads(1)
    found = comparison.measure(game, steps, seeds=3)
    assert comparison.bands_meet(found).all()
    for agent in comparison.AGENTS:
        mean, _ = comparison.band(found, agent)
        assert mean[-1] > 1.5 * mean[0]  # it learns


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_in_the_committed_results_the_bands_meet(comparison: Any, table: Path) -> None:
    found = pl.read_csv(table)
    assert found["seed"].n_unique() >= 5
    assert comparison.bands_meet(found).all()
