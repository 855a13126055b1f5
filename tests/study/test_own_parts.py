"""Parts of other people: by package.module:Name, as objects, by entry points; readers never import them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset, save_data
from isoplast.study import Run, Study, load_runs, load_study, open_run, run_study
from isoplast.testing import check_method, check_stream

FOLDER = Path(__file__).parents[2] / "examples" / "bring_your_own"
COMMAND = [sys.executable, "-m", "isoplast"]


@pytest.fixture
def own_parts() -> Iterator[object]:
    """The module of the example, importable while a test runs."""
    sys.path.insert(0, str(FOLDER))
    import own_parts

    yield own_parts
    sys.path.remove(str(FOLDER))
    del sys.modules["own_parts"]


def isoplast(*words: str, folder: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [path, *sys.path])),
        "COLUMNS": "200",
    }
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )


@pytest.mark.slow
def test_a_regression_stream_of_ones_own_with_a_method_of_ones_own_runs_from_yaml(tmp_path: Path) -> None:
    for name in ("own_parts.py", "own_study.yaml"):
        shutil.copy(FOLDER / name, tmp_path)
    done = isoplast("study", "own_study.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Mean squared error, mean over seeds" in done.stdout
    frame = load_study(tmp_path / "runs" / "own_study")
    assert frame["label"].unique(maintain_order=True).to_list() == ["Adam", "Weight noise"]
    assert frame["primary"].unique().to_list() == ["mean_squared_error"]
    assert frame.filter(frame["task"] >= 0)["score"].is_finite().all()
    first, last = (frame.filter((frame["task"] == task) & (frame["label"] == "Adam")) for task in (-1, 0))
    assert last["score"][0] < first["score"][0]
    opened = open_run(tmp_path / "runs" / "own_study" / frame["run_id"][-1])
    assert (type(opened.method).__name__, opened.finished) == ("WeightNoise", 3)
    assert opened.network(opened.inputs).shape == (128, 1)


@pytest.mark.slow
def test_readers_never_import_such_code(tmp_path: Path) -> None:
    for name in ("own_parts.py", "own_study.yaml"):
        shutil.copy(FOLDER / name, tmp_path)
    assert isoplast("study", "own_study.yaml", folder=tmp_path).returncode == 0
    (tmp_path / "own_parts.py").write_text("raise SystemExit('the module was imported')")
    out = tmp_path / "runs" / "own_study"
    assert load_study(out).height == 8
    assert set(load_runs(out)["state"]) == {"done"}
    run = next(out.glob("*weightnoise*"))
    assert isoplast("report", str(out), folder=tmp_path).returncode == 0
    found = isoplast("inspect", str(run), folder=tmp_path)
    assert found.returncode in (0, 1), found.stderr
    assert "own_parts:WeightNoise" in found.stdout
    assert "is not imported" in found.stdout


def test_the_example_keeps_the_contracts(own_parts: object) -> None:
    check_stream(own_parts.DriftingSine(tasks=3, samples=32))  # type: ignore[attr-defined]
    check_method(own_parts.WeightNoise(), networks=["mlp"])  # type: ignore[attr-defined]


def test_objects_are_parts(own_parts: object, tmp_path: Path) -> None:
    run = Run(
        stream=own_parts.DriftingSine(tasks=2, samples=32),  # type: ignore[attr-defined]
        net=own_parts.TwoLayers(width=4),  # type: ignore[attr-defined]
        method=own_parts.WeightNoise(sigma=1e-2),  # type: ignore[attr-defined]
        learner={"name": "supervised", "epochs": 1},
    )
    assert run.method.name == "own_parts:WeightNoise"
    assert dict(run.method.settings) == {"sigma": 1e-2}
    assert run.data is None
    assert Run.from_yaml(run.to_yaml()) == run
    run_study(Study("objects", [run]), tmp_path, executor="inline")
    assert load_study(tmp_path)["score"].len() == 3


@pytest.mark.slow
def test_objects_run_in_worker_processes(own_parts: object, tmp_path: Path) -> None:
    data = save_data(tmp_path / "mine.npz", Dataset([[0.0, 1.0]] * 30, [0, 1, 2] * 10))  # type: ignore[arg-type]
    shared = {"path": (str(FOLDER),), "learner": {"name": "supervised", "epochs": 1}}
    net = own_parts.TwoLayers(width=4)  # type: ignore[attr-defined]
    study = Study("workers", [Run(data=data, net=net, method="adam", stream={"tasks": 2}, **shared)])  # type: ignore[arg-type]
    (outcome,) = run_study(study, tmp_path / "out")
    assert outcome.failure is None
    assert outcome.score is not None


def test_an_object_that_no_other_process_finds_is_refused(tmp_path: Path) -> None:
    from dataclasses import dataclass

    from isoplast.methods import Adam

    @dataclass(frozen=True)
    class Local(Adam):
        pass

    with pytest.raises(IsoplastError, match="is defined in a function, where no other process finds it"):
        Run(method=Local())  # type: ignore[arg-type]
    with pytest.raises(IsoplastError, match="data is a Dataset, which no other process has: give save_data"):
        Run(data=Dataset([[0.0]], [0]))  # type: ignore[arg-type]


@pytest.mark.slow
def test_installed_packages_offer_parts_by_entry_points(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "own_parts.py", tmp_path / "somebodys_parts.py")
    info = tmp_path / "somebody-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[isoplast.methods]\nweight-noise = somebodys_parts:WeightNoise\n"
        "[isoplast.streams]\ndrifting-sine = somebodys_parts:DriftingSine\n"
        "[isoplast.nets]\ntwo-layers = somebodys_parts:TwoLayers\n"
    )
    work = tmp_path / "work"
    work.mkdir()
    words = ["stream=drifting-sine", "stream.tasks=2", "net=two-layers", "net.width=4", "method=weight-noise"]
    done = isoplast("run", *words, "--epochs", "1", folder=work, path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "mean squared error: first task" in done.stdout
    wrong = isoplast("run", "method=weight-nose", folder=work, path=str(tmp_path))
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean 'weight-noise'" in wrong.stderr


@pytest.mark.slow
def test_the_current_directory_is_no_place_for_modules(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('somebody else\\'s random.py was run')")
    shutil.copy(FOLDER / "own_parts.py", tmp_path)
    study = {
        "name": "here",
        "run": {
            "stream": {"name": "random-labels", "tasks": 1},
            "samples": 50,
            "epochs": 1,
            "net": {"width": 4},
        },
        "methods": ["adam"],
    }
    (tmp_path / "here.yaml").write_text(json.dumps(study))
    done = isoplast("study", "here.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    study["methods"] = ["own_parts:WeightNoise"]
    (tmp_path / "here.yaml").write_text(json.dumps(study))
    refused = isoplast("study", "here.yaml", folder=tmp_path)
    assert refused.returncode == 2
    assert "own_parts cannot be imported" in refused.stderr
    assert "a folder that the study's 'path' names" in refused.stderr
    (tmp_path / "here.yaml").write_text(json.dumps({**study, "path": "."}))
    assert isoplast("study", "here.yaml", "--out", "again", folder=tmp_path).returncode == 0
