"""`isoplast tune`: the same space and seeds for every method, then a frozen study."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.text import Text

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import escaped
from isoplast.cli._arguments import Address, ExecutorName, FileOrName, FilePath, Flag, Number, Words
from isoplast.cli._words import parse_words
from isoplast.cli.studies._dry_run import show_plan
from isoplast.cli.studies._executor import taken_executor
from isoplast.cli.studies._running import INTERRUPTED, do_runs, do_study
from isoplast.cli.studies._studies import report
from isoplast.study import (
    Choice,
    Executor,
    NotSwept,
    RunDirectory,
    Study,
    Tuning,
    find_tuning,
    freeze,
    frozen_study,
    read_index,
    select,
    sweep,
    trials,
)

_STAGES = ("all", "sweep", "select", "freeze", "run", "report")
_Stage = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="[STAGE]", help_behavior_hint="(default: all)")
]


def tune(
    file: FileOrName,
    stage: _Stage = "all",
    words: Words = (),
    /,
    *,
    out: FilePath = None,
    jobs: Number = None,
    threads: int = 1,
    executor: ExecutorName = "local",
    address: Address = None,
    dry_run: Flag = False,
) -> int:
    """Tune every method on the same space and seeds, then freeze a study.

    The stages, of which each does only what is missing (all does the first three):

    sweep does the trials, select shows the best of every method,

    freeze writes the study with them, run does it, report shows it.

    Args:
        file: A study in YAML with one more key, tune, or the name of a ready-made one.
        stage: all, sweep, select, freeze, run or report.
        words: Settings of the executor (executor.partition=gpu).
        out: Directory of the results; by default runs/NAME-tuning.
        jobs: Number of runs at the same time; by default as many as there is room for.
        threads: Threads of each process; results depend on it in their last bits.
        executor: Where the runs are done.
        address: Of the Ray cluster (executor.address).
        dry_run: Only list the trials, or with stage run the runs, and what they are expected to cost.
    """
    if "=" in stage:
        stage, words = "all", (stage, *words)
    if stage not in _STAGES:
        raise unknown("stage", stage, _STAGES)
    given = parse_words(words)
    where = taken_executor(executor, address, given)
    if given:
        raise IsoplastError(f"got {next(iter(given))}=...: write the settings of runs into {file}")
    tuning = Tuning.load(find_tuning(file))
    stages = _Stages(file, tuning, out)
    if dry_run:
        if stage in ("all", "sweep"):
            return _plan(tuning, stages.tried, jobs, threads, executor == "local")
        if stage == "run":
            return show_plan(stages.study(), stages.evaluation, jobs, threads, local=executor == "local")
        raise IsoplastError(f"stage {stage} does no runs: give --dry-run with sweep or run")
    status = 0
    if stage in ("all", "sweep"):
        status = _sweep(tuning, stages.tried, jobs, threads, where)
        if status == INTERRUPTED or stage == "sweep":
            return status
    if stage == "run":
        return do_study(stages.frozen(), stages.evaluation, jobs, threads, where)
    if stage == "report":
        return stages.report()
    choices = stages.choices()
    for choice in choices:
        print(choice)
    if stage != "select":
        freeze(tuning, choices, stages.file)
        print(escaped(f"frozen: {stages.file}; {stages.command('run')} does it"))
    return status


class _Stages:
    """What the stages after the sweep share.

    Attributes:
        tried, evaluation: the directories of the trials and of the frozen study.
        file: that of the frozen study.
    """

    def __init__(self, named: str, tuning: Tuning, out: Path | None) -> None:
        self._named, self._out, self._tuning = named, out, tuning
        folder = out or Path("runs") / f"{tuning.study.name}-tuning"
        self.tried, self.evaluation = folder / "sweep", folder / "evaluation"
        self.file = folder / f"{tuning.study.name}.yaml"

    def command(self, stage: str) -> str:
        """The command that does a stage of this tuning."""
        words = ["isoplast", "tune", self._named, stage]
        return shlex.join(words if self._out is None else [*words, "--out", str(self._out)])

    def choices(self) -> list[Choice]:
        """The best trial of every method."""
        try:
            return select(self._tuning, self.tried)
        except NotSwept as error:
            raise IsoplastError(f"{error} ({self.command('sweep')})") from None

    def study(self) -> Study:
        """The study that the present file and its trials lead to."""
        return frozen_study(self._tuning, self.choices(), self.file)

    def frozen(self) -> Study:
        """The same, written to its file unless that holds it already."""
        choices = self.choices()
        study = frozen_study(self._tuning, choices, self.file)
        if not self.file.is_file() or self.file.read_bytes() != study.text.encode():
            freeze(self._tuning, choices, self.file)
            print(escaped(f"frozen: {self.file}"))
        return study

    def report(self) -> int:
        """Write the report of the frozen study, if it is that which was done."""
        study = self.study()
        found = read_index(self.evaluation)
        if found is None or {*found.runs} != {run.id for run in study.runs}:
            raise IsoplastError(
                f"{self.evaluation} does not hold the runs with the settings that {self._named} leads to: "
                f"{self.command('run')} does what is missing"
            )
        return report(self.evaluation)


def _plan(tuning: Tuning, out: Path, jobs: int | None, threads: int, local: bool) -> int:
    known = trials(tuning)
    if known is not None:
        return show_plan(known, out, jobs, threads, local=local)
    searches, seeds, trials_ = len(tuning.methods), len(tuning.seeds), tuning.trials or 0
    tasks = sum(tuning.tasks(method) for method in tuning.methods) * seeds * trials_
    problems = len(tuning.problems)
    where = f"{searches} methods" if problems == 1 else f"{searches} pairs of a method and a problem"
    print(
        f"sampler {tuning.sampler} finds out on the way what to try, so this is a bound and no plan: at most "
        f"{trials_ * seeds * searches} runs ({trials_} trials x {seeds} seeds x {where}), {tasks} tasks; a "
        "setting that is tried again costs nothing. Nothing is started"
    )
    return 0


def _sweep(tuning: Tuning, out: Path, jobs: int | None, threads: int, executor: Executor) -> int:
    console = Console()
    known = trials(tuning)
    missing = None
    if known is not None:
        missing = sum(RunDirectory(out / run.id).status().state != "done" for run in known.runs)
    outcomes = do_runs(
        console,
        missing,
        lambda shown: sweep(tuning, out, jobs=jobs, threads=threads, display=shown, executor=executor),
    )
    if outcomes is None:
        console.print(Text("interrupted; the same command goes on from here"))
        return INTERRUPTED
    failed = sum(outcome.failure is not None for outcome in outcomes)
    console.print(Text(escaped(f"sweep: {len(outcomes)} runs, {failed} of them failed; results in {out}")))
    if failed:
        console.print(
            Text(escaped(f"isoplast show {out} gives the reasons; the same command tries them again"))
        )
    return 1 if failed else 0
