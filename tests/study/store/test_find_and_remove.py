"""Results found below a folder, and removed without a file of anybody else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from isoplast._core.errors import IsoplastError
from isoplast.study import (
    Run,
    RunDirectory,
    RunLocked,
    Study,
    all_runs,
    disk_use,
    find_results,
    holds_results,
    load_runs,
    read_index,
    remove_runs,
)
from isoplast.study.store._lock import DirectoryLock

MakeRun = Callable[..., Run]


@pytest.fixture
def study(tiny: MakeRun, tmp_path: Path) -> Path:
    """The directory of a study of three runs."""
    path = tmp_path / "runs" / "three"
    path.mkdir(parents=True)
    runs = [tiny(seed=seed) for seed in (0, 1, 2)]
    Study("three", runs).describe(path)
    for run in runs:
        RunDirectory.create(path, run)
    return path


def somebody_elses(folder: Path) -> Path:
    """A folder with files of the names that ours have."""
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text("openapi: 3.0.0\n")
    (folder / "index.json").write_text('{"title": "a page"}')
    return folder


def test_results_are_found_and_nothing_else(study: Path, tiny: MakeRun, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for folder in (runs / "service", runs / ".hidden" / "x", runs / "deep" / "service"):
        somebody_elses(folder)
    RunDirectory.create(runs / "single", tiny())
    tuned = runs / "deep" / "tuning" / "sweep"
    tuned.mkdir(parents=True)
    Study("sweep", [tiny()]).describe(tuned)
    (runs / "link").symlink_to(study)
    assert find_results(tmp_path) == [tuned, runs / "single", study]
    assert find_results(study) == [study]
    assert find_results(runs / "service") == []
    with pytest.raises(IsoplastError, match="nowhere is no folder"):
        find_results(tmp_path / "nowhere")


def test_the_size_counts_all_but_locks(study: Path) -> None:
    (study / ".lock").write_bytes(bytes(1000))
    used, changed = disk_use(study)
    files = [path for path in study.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert used == sum(path.stat().st_size for path in files)
    assert changed == max(path.stat().st_mtime for path in files)


def test_removed_runs_are_missing_and_the_index_stays(study: Path) -> None:
    first, *others = all_runs(study)
    assert remove_runs(study, others) == []
    assert load_runs(study)["run_id"].to_list() == [first.path.name]
    index = read_index(study)
    assert index is not None
    assert len(index.runs) == 3


def test_a_whole_study_goes_with_its_directory(study: Path) -> None:
    assert remove_runs(study, all_runs(study), whole=True) == []
    assert not study.exists()


def test_a_single_run_goes(study: Path) -> None:
    run, *others = all_runs(study)
    assert remove_runs(run.path, [run], whole=True) == []
    assert [one.path for one in all_runs(study)] == [one.path for one in others]


def test_files_of_others_stay(study: Path) -> None:
    (study / "notes.txt").write_text("mine")
    service = somebody_elses(study / "service")
    assert remove_runs(study, all_runs(study), whole=True) == [study / "notes.txt", service]
    assert (study / "notes.txt").read_text() == "mine"
    assert not holds_results(study)


def test_what_is_damaged_can_be_removed(study: Path) -> None:
    (all_runs(study)[0].path / "spec.yaml").write_text("[")
    (study / "index.json").write_text("{")
    assert len(all_runs(study)) == 3
    assert remove_runs(study, all_runs(study), whole=True) == []
    assert not study.exists()


def test_what_is_not_ours_or_elsewhere_is_refused(study: Path, tmp_path: Path) -> None:
    service = somebody_elses(tmp_path / "service")
    with pytest.raises(IsoplastError, match="is no study and no run"):
        remove_runs(service, [], whole=True)
    with pytest.raises(IsoplastError, match="is no run"):
        remove_runs(study, [RunDirectory(service)])
    link = tmp_path / "link"
    link.symlink_to(study)
    with pytest.raises(IsoplastError, match="is a link: remove what it leads to"):
        remove_runs(link, all_runs(link), whole=True)
    assert service.exists()
    assert len(all_runs(study)) == 3


@pytest.mark.parametrize("name", ["..", "../service", "/etc", "", "."])
def test_an_index_that_leads_elsewhere_is_damaged(study: Path, name: str) -> None:
    index = json.loads((study / "index.json").read_text())
    index["runs"][0]["id"] = name
    (study / "index.json").write_text(json.dumps(index))
    with pytest.raises(IsoplastError, match=r"index.json is damaged"):
        load_runs(study)


def test_nothing_is_taken_from_somebody_at_work(study: Path) -> None:
    runs = all_runs(study)
    with DirectoryLock(study), pytest.raises(RunLocked, match="in use by another"):
        remove_runs(study, runs, whole=True)
    with runs[2].owned(), pytest.raises(RunLocked, match="in use by another"):
        remove_runs(study, runs[2:])
    assert len(all_runs(study)) == 3
    with runs[2].owned(), pytest.raises(RunLocked):
        remove_runs(runs[2].path, runs[2:], whole=True)
    assert len(all_runs(study)) == 3
