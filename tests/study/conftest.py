"""Runs that take a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isoplast.study import Run, Switch, execute


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Run]:
    """Makes a run of 3 tasks x 4 steps on 128 digits; `tasks`, `epochs` and `batch_size` change its parts."""

    def make(**changes: Any) -> Run:
        settings: dict[str, Any] = {
            "data": {"name": "digits", "samples": 128},
            "stream": {"name": "random-labels", "tasks": 3},
            "learner": {"name": "supervised", "epochs": 2, "batch_size": 64},
            "net": {"name": "mlp", "width": 16, "depth": 2},
            "method": "adamo",
            "lr": 3e-3,
        }
        parts = {"tasks": "stream", "epochs": "learner", "batch_size": "learner"}
        for name, owner in parts.items():
            if name in changes:
                settings[owner] = {**settings[owner], name: changes.pop(name)}
        return Run(**{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def rescue(tiny: Callable[..., Run]) -> Run:
    """A run that changes its method half-way: the most there is to get wrong on resuming."""
    return tiny(method="adam", switch=Switch(1, {"name": "adamo", "isometry_every": 3}))


@pytest.fixture(scope="session")
def whole_rescue(rescue: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of that run, done without an interruption."""
    return execute(rescue, tmp_path_factory.mktemp("whole")).path
