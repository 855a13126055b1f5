"""Every ready-made study starts: two tasks of each setting, narrow, on a few samples of the right shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from isoplast.data import Dataset, save_data
from isoplast.study import Run, Study, builtin_studies, execute, find_study
from isoplast.study.store._files import read_rows

_MOST = 10  # settings of a study: the longest one lists every method, which have tests of their own
NEEDS = {"minatar": ("jax", "gymnax"), "octax": ("jax", "octax"), "slippery-ant": ("mujoco",)}
SHAPES = {"mnist": ((1, 28, 28), 10), "cifar10": ((3, 32, 32), 10), "cifar100": ((3, 32, 32), 100)}


def made_up(name: str, folder: Path) -> dict[str, Any]:
    """What stands for a data set: as many classes, images of the same shape, or texts."""
    if name == "digits":
        return {"name": "digits", "samples": 60}
    if name == "text":
        for file in ("one", "two"):
            (folder / f"{file}.txt").write_text(f"It is a text of no interest, number {file}. " * 40)
        return {"name": "text", "path": str(folder), "length": 64, "python_bytes": 3000}
    shape, classes = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    count = max(60, 2 * classes)
    whole = Dataset(torch.randn(count, *shape, generator=generator), torch.arange(count) % classes, classes)
    held_out = Dataset(torch.randn(count, *shape, generator=generator), whole.targets, classes)
    spec = save_data(folder / f"{name}.npz", whole, held_out)
    return {"name": "file", "path": spec.path, "classes": classes}


def shortened(run: Run, data: dict[str, Any] | None) -> Run:
    """Two tasks, one pass over a few samples or one rollout, a narrow network."""
    mapping = run.to_mapping()
    mapping["net"] |= {key: size for key, size in (("width", 16), ("channels", 4)) if key in mapping["net"]}
    mapping["stream"]["tasks"] = 2
    if "examples" in mapping["stream"]:
        mapping["stream"]["examples"] = 40
    if "steps_per_task" in mapping["stream"]:
        mapping["stream"]["steps_per_task"] = 32
        # as many copies in training as in evaluation: JAX compiles a game for every number of them
        mapping["learner"] |= {"environments": 1, "rollout": 32, "minibatches": 2, "evaluation_episodes": 1}
    mapping["learner"]["epochs"] = 1
    mapping |= {"instruments": False} | ({} if data is None else {"data": data})
    if "switch" in mapping:
        mapping["switch"]["task"] = 1
    return Run.from_mapping(mapping)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(builtin_studies()))
def test_a_ready_made_study_starts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ISOPLAST_DATA", raising=False)
    study = Study.load(find_study(name))
    assert study.name == name
    assert study.about
    if study.runs[0].learner.name == "ppo":
        for package in NEEDS.get(study.runs[0].stream.name, ()):
            pytest.importorskip(package, reason="needs the extra isoplast[rl]")
    folder = tmp_path / "data"
    folder.mkdir()
    known = {run.data.name: made_up(run.data.name, folder) for run in study.runs if run.data is not None}
    first: dict[tuple[str, object], Run] = {}
    for run in study.runs:
        first.setdefault((run.label, run.stream), run)
    assert len(study.runs) == len(first) * len({run.seed for run in study.runs})
    for run in list(first.values())[:_MOST]:
        directory = execute(shortened(run, None if run.data is None else known[run.data.name]), tmp_path)
        rows = read_rows(directory.metrics)
        assert [row["task"] for row in rows] == [-1, 0, 1]
        assert rows[-1]["primary"] in rows[-1], run.label


def strength(run: Run) -> float:
    """8 lr lambda steps of a whole run."""
    samples = {"cifar10": 50_000, "cifar100": 50_000}
    assert run.data is not None
    data, learner = dict(run.data.settings), dict(run.learner.settings)
    batches = -(-data.get("samples", samples[run.data.name]) // learner["batch_size"])
    steps = batches * learner["epochs"] * run.tasks
    return 8 * run.lr * float(dict(run.method.settings)["isometry"]) * steps


@pytest.mark.parametrize("name", ["pixel_permutation", "random_labels", "label_shuffling"])
def test_the_small_studies_keep_the_isometry_of_the_large_ones(name: str) -> None:
    large, small = (
        next(run for run in Study.load(find_study(one)).runs if run.method.name == "adamo")
        for one in (name, f"{name}_small")
    )
    assert strength(small) == pytest.approx(strength(large), rel=0.01)
