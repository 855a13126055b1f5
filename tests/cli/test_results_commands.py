"""`isoplast ls`, `show`, `rm` and `watch`, on small real runs."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from isoplast.cli import main
from isoplast.cli.results._live_view import sparkline, view
from isoplast.study import Follower, Run, RunDirectory, Study, execute, find_results, run_study
from isoplast.study.store._lock import DirectoryLock

FILE = """
name: both
about: two that learn and one that cannot
run: {samples: 64, tasks: 3, epochs: 2, net: {name: mlp, width: 8}, instruments: false}
methods: [adamo, {method: adam, lr: 1e-2}, {method: adam, lr: 1e30, label: too fast}]
seeds: [0, 1]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of a study, of which two runs failed, and of a single run."""
    folder = tmp_path_factory.mktemp("done")
    study = Study.parse(FILE)
    run_study(study, folder / "both", executor="inline")
    execute(study.runs[0], folder / "single")
    return folder


@pytest.fixture
def runs(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the folder `runs` of the current one."""
    shutil.copytree(done, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return Path("runs")


def words(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, on lines of any length; all of them fit a terminal."""
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines()), default=0) <= 80
    return " ".join(said.split())


class TestLs:
    def test_studies_and_runs_are_listed(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["ls"]) == 0
        said = words(capsys)
        assert re.search(r"runs/both 4 done, 2 Adam\w?: accuracy", said)
        assert re.search(r"runs/single 1 done AdamO: accuracy", said)
        assert len(re.findall(r"\d [kM]?B\b", said)) == 2
        assert main(["ls", "runs/single"]) == 0
        assert "runs/both" not in words(capsys)

    def test_what_is_damaged_is_listed_with_the_reason(
        self, runs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (runs / "both" / "index.json").write_text("{")
        assert main(["ls"]) == 0
        said = words(capsys)
        assert "delete it, and the same `isoplast study` writes it again" in said
        assert "runs/single 1 done" in said

    def test_nothing_is_no_error_and_no_folder_is_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("empty").mkdir()
        assert main(["ls", "empty"]) == 0
        assert capsys.readouterr().out == "no results in empty\n"
        assert main(["ls"]) == 2
        said = capsys.readouterr().err
        assert said == "isoplast: runs is no folder: name one that holds results, such as runs\n"


class TestShow:
    def test_a_study(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["show", "runs/both"]) == 0
        out = capsys.readouterr().out
        said = " ".join(out.split())
        assert said.startswith(
            "both in runs/both two that learn and one that cannot 6 runs: 4 done, 2 failed; "
        )
        assert "stream random-labels, tasks 3 data digits, samples 64" in said
        assert "too fast method adam, lr 1e+30" in said
        assert re.search(r"1 Adam\w? 0\.\d{3} \[.*\] [-+]0\.\d{3} 2 2 ", said)
        assert re.search(r"3 too fast 0\.\d{3} .* 2, 2 failed Exploratory: fewer than ten seeds", said)
        assert len(re.findall(r"^failed: too fast, seed [01]: the loss is .*/log.txt$", out, re.M)) == 2
        tables = [line for line in out.splitlines() if not line.startswith("failed: ")]
        assert max(map(len, tables)) <= 80

    def test_a_run(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (run,) = (runs / "single").iterdir()
        assert main(["show", str(run)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert said.startswith(f"AdamO, seed 0, in {run} done: 3 of 3 tasks, 6 steps in ")
        assert "started once; " in said
        assert "accuracy: first task 0." in said
        assert "method adamo, betas [0.9, 0.999]" in said
        assert "made with python 3" in said

    def test_a_study_that_has_just_begun(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("new").mkdir()
        Study("new", [Run()]).describe(Path("new"))
        assert main(["show", "new"]) == 0
        RunDirectory.create(Path("new"), Run())
        assert main(["show", "new"]) == 0
        assert "random-labels, digits: nothing is measured yet" in capsys.readouterr().out

    def test_every_problem_has_a_table(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        text = FILE.replace("methods:", "streams: [random-labels, label-shuffling]\nmethods:")
        text = text.replace(", {method: adam, lr: 1e30, label: too fast}", "").replace("[0, 1]", "[0]")
        run_study(Study.parse(text), "two", executor="inline")
        assert main(["show", "two"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "random-labels, digits: accuracy, mean over all tasks" in said
        assert "label-shuffling, digits: accuracy, held out, mean over all tasks" in said
        assert main(["ls", "two"]) == 0
        assert "1 other problems" in " ".join(capsys.readouterr().out.split())

    @pytest.mark.parametrize("command", ["show", "rm", "watch"])
    def test_a_folder_of_studies_names_them(
        self, runs: Path, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        assert main([command, "runs"]) == 2
        said = capsys.readouterr().err
        assert said == "isoplast: runs is no study and no run: name one of runs/both, runs/single\n"
        Path("empty").mkdir()
        assert main([command, "empty"]) == 2
        assert capsys.readouterr().err.startswith("isoplast: empty holds no results: ")


class TestRm:
    def test_failed_runs_go_and_are_done_again(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["rm", "runs/both", "--failed", "--yes"]) == 0
        assert re.fullmatch(r"removed 2 runs of runs/both, [\d.]+ kB\n", capsys.readouterr().out)
        assert len(list((runs / "both").glob("*/spec.yaml"))) == 4
        assert main(["rm", "runs/both", "--failed", "--yes"]) == 0
        assert capsys.readouterr().out == "no such runs in runs/both\n"
        outcomes = run_study(Study.parse(FILE), "runs/both", executor="inline")
        assert [outcome.failure is None for outcome in outcomes] == [True, True, False] * 2

    @pytest.mark.parametrize(("name", "left"), [("too fast", 4), ("adam", 2), ("AdamO", 4)])
    def test_the_runs_of_a_method_go(
        self, runs: Path, capsys: pytest.CaptureFixture[str], name: str, left: int
    ) -> None:
        assert main(["rm", "runs/both", "--method", name, "--yes"]) == 0
        assert len(list((runs / "both").glob("*/spec.yaml"))) == left

    def test_an_unknown_method_removes_nothing(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["rm", "runs/both", "--method", "adm", "--yes"]) == 2
        assert "unknown method 'adm': did you mean 'adam'?" in capsys.readouterr().err
        assert len(list((runs / "both").glob("*/spec.yaml"))) == 6

    @pytest.mark.parametrize(("answer", "there"), [("n", True), ("", True), ("y", False), ("Yes", False)])
    def test_it_asks(
        self,
        runs: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        answer: str,
        there: bool,
    ) -> None:
        asked: list[str] = []

        def asking(question: str) -> str:
            asked.append(question)
            return answer

        monkeypatch.setattr("builtins.input", asking)
        monkeypatch.setattr(sys, "stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
        assert main(["rm", "runs/both"]) == 0
        assert re.fullmatch(r"remove runs/both with 6 runs, [\d.]+ kB\? \[y/N\] ", asked[0])
        assert (runs / "both").exists() is there
        assert ("nothing is removed" in capsys.readouterr().out) is there

    def test_without_a_terminal_it_wants_yes(self, runs: Path) -> None:
        command = [sys.executable, "-m", "isoplast", "rm", "runs/both"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 2
        assert done.stderr.endswith("Nobody can be asked here: give --yes\n")
        assert len(list((runs / "both").glob("*/spec.yaml"))) == 6

    def test_files_of_others_are_named(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (runs / "both" / "notes.txt").write_text("mine")
        assert main(["rm", "runs/both", "--yes"]) == 0
        assert "stays, for files that isoplast did not write: notes.txt" in capsys.readouterr().out
        assert find_results(runs) == [runs / "single"]

    def test_a_single_run_goes(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (run,) = (runs / "single").iterdir()
        assert main(["rm", str(run), "--yes"]) == 0
        assert capsys.readouterr().out.startswith(f"removed {run}, ")
        assert not run.exists()

    def test_a_study_at_work_is_left(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with DirectoryLock(runs / "both"):
            assert main(["rm", "runs/both", "--yes"]) == 2
        assert "in use by another isoplast process" in capsys.readouterr().err
        assert len(list((runs / "both").glob("*/spec.yaml"))) == 6


class TestWatch:
    def test_what_is_done_is_said_at_once(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["watch", "runs/single"]) == 0
        assert capsys.readouterr().out == "runs/single: 1 done\nall runs are done\n"
        assert main(["watch", "runs/both"]) == 1
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == "2 of 6 runs failed: its command tries them again"

    @pytest.mark.timeout(60)
    def test_a_line_for_each_run_that_ends(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        study = Study.parse(FILE)
        out = tmp_path / "both"
        out.mkdir()
        study.describe(out)
        for run in study.runs:
            RunDirectory.create(out, run)
        begun = threading.Event()

        def work() -> None:
            with DirectoryLock(out):
                begun.set()
                time.sleep(0.5)
                for run in study.runs[:2]:
                    execute(run, out)
                RunDirectory(out / study.runs[2].id).mark_failed("no luck")
                time.sleep(0.5)

        worker = threading.Thread(target=work)
        worker.start()
        begun.wait()
        assert main(["watch", str(out), "--every", "0.1"]) == 1
        worker.join()
        first, *lines, last = capsys.readouterr().out.splitlines()
        assert first == f"{out}: 6 waiting"
        assert re.fullmatch(r"\[1/6\] done: AdamO, seed 0: accuracy 0\.\d{3} \(mean over 3 tasks\)", lines[0])
        assert re.fullmatch(r"\[3/6\] failed: too fast, seed 0: no luck; see .*log.txt", lines[2])
        assert last == "nobody is working on it, and 3 of 6 runs are not done: its command goes on"

    def test_ctrl_c_ends_it(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(seconds: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("isoplast.cli.results._watch.time.sleep", interrupt)
        with DirectoryLock(runs / "both"):
            assert main(["watch", "runs/both"]) == 0

    @pytest.mark.parametrize("every", ["0", "-1", "nan", "1e9"])
    def test_a_wrong_interval_is_refused(
        self, runs: Path, capsys: pytest.CaptureFixture[str], every: str
    ) -> None:
        assert main(["watch", "runs/both", "--every", every]) == 2
        assert "give the seconds between two looks" in capsys.readouterr().err

    @pytest.mark.parametrize("height", [10, 24, 100])
    @pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
    def test_the_view_fits_a_terminal(self, runs: Path, height: int, encoding: str) -> None:
        file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
        console = Console(file=file, width=80, height=height, force_terminal=True, color_system=None)
        follower = Follower(runs / "both")
        follower.look()
        console.print(view(follower, console))
        file.flush()
        said = file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        lines = said.splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[:2] == ["runs/both", "6 runs: 4 done, 2 failed"]
        assert "12 of 12 tasks" in lines[2]
        assert re.search(r"Adam[ |]+2/2[ |]+0\.\d{3}[ |]+0\.\d{3}[ |]+\S{3}", said)
        assert re.search(r"failed: too fast, seed 1: the loss is ", said)


@pytest.mark.parametrize(
    ("values", "length", "said"),
    [
        ([0.0, 0.5, 1.0], 3, "▁▅█"),
        ([0.5, 0.5], 2, "▅▅"),
        ([1.0], 4, "█"),
        ([0.0, float("nan"), 1.0], 3, "▁ █"),
        ([], 3, ""),
        ([1.0] * 200, 200, "█" * 20),
        ([0.0] * 100, 200, "▁" * 10),
    ],
)
def test_a_curve_in_one_line(values: list[float], length: int, said: str) -> None:
    assert sparkline(values, length, 0.0, 1.0) == said
    assert sparkline([0.5] * 3, 3, 0.5, 0.5) == "███"
