"""`isoplast tune`: the same space and budget for every method, then a frozen study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.text import Text

from isoplast._core.errors import IsoplastError
from isoplast.cli._arguments import ExecutorName, File, FilePath, Flag, Number
from isoplast.cli.studies._dry_run import show_plan
from isoplast.cli.studies._running import INTERRUPTED, do_runs, do_study
from isoplast.cli.studies._studies import report
from isoplast.study import RunDirectory, Study, Tuning, freeze, select, sweep, trials

_Stage = Annotated[
    Literal["all", "sweep", "select", "freeze", "run", "report"],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="[STAGE]", help_behavior_hint="(default: all)"),
]


def tune(
    file: File,
    stage: _Stage = "all",
    /,
    *,
    out: FilePath = None,
    jobs: Number = None,
    threads: int = 1,
    executor: ExecutorName = "local",
    dry_run: Flag = False,
) -> int:
    """Tune every method on the same space and budget, then freeze a study.

    The stages, of which each does only what is missing (all does the first three):

    sweep does the trials, select shows the best of every method,

    freeze writes the study with them, run does it, report shows it.

    Args:
        file: A study in YAML with one more key, tune.
        stage: Which stage.
        out: Directory of the results; by default runs/NAME-tuning.
        jobs: Number of runs at the same time; by default as many as there is room for.
        threads: Threads of each process; results depend on it in their last bits.
        executor: Where the runs are done.
        dry_run: Only list the trials, or with stage run the runs, and what they are expected to cost.
    """
    tuning = Tuning.load(file)
    out = out or Path("runs") / f"{tuning.study.name}-tuning"
    tried, evaluation, frozen = out / "sweep", out / "evaluation", out / f"{tuning.study.name}.yaml"
    if stage in ("run", "report") and not frozen.exists():
        raise IsoplastError(f"there is no {frozen} yet: isoplast tune {file} freeze writes it")
    if dry_run:
        if stage in ("all", "sweep"):
            return _plan(tuning, tried, jobs, threads, executor == "local")
        if stage == "run":
            return show_plan(Study.load(frozen), evaluation, jobs, threads, local=executor == "local")
        raise IsoplastError(f"stage {stage} does no runs: give --dry-run with sweep or run")
    if stage in ("all", "sweep"):
        status = _sweep(tuning, tried, jobs, threads, executor)
        if status or stage == "sweep":
            return status
    if stage == "run":
        return do_study(Study.load(frozen), evaluation, jobs, threads, executor)
    if stage == "report":
        return report(evaluation)
    choices = select(tuning, tried)
    for choice in choices:
        print(choice)
    if stage != "select":
        freeze(tuning, choices, frozen)
        print(f"frozen: {frozen}; isoplast tune {file} run does it")
    return 0


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


def _sweep(tuning: Tuning, out: Path, jobs: int | None, threads: int, executor: str) -> int:
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
    console.print(Text(f"sweep: {len(outcomes)} runs, {failed} of them failed; results in {out}"))
    return 0
