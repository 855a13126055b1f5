"""Doing runs before the user's eyes, until they are done or somebody interrupts."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from isoplast._core.text import escaped
from isoplast.cli.studies._display import display
from isoplast.cli.studies._summary import summary_sentence, summary_table
from isoplast.study import Display, Executor, Outcome, RunDirectory, Study, load_runs, load_study, run_study

INTERRUPTED = 130


def do_study(
    chosen: Study, out: Path, jobs: int | None, threads: int, executor: str | Executor = "local"
) -> int:
    """Do what is missing of a study, then show and report what it gave; returns the exit status."""
    console = Console()
    directories = [RunDirectory(out / run.id) for run in chosen.runs]

    def complete() -> int:
        return sum(directory.status().state == "done" for directory in directories)

    missing = len(chosen.runs) - complete()
    count = f"{missing} of {len(chosen.runs)} runs to do"
    console.print(Text(escaped(f"{chosen.name}: {count}, results in {out}")))
    outcomes = do_runs(
        console,
        missing,
        lambda shown: run_study(chosen, out, jobs=jobs, threads=threads, display=shown, executor=executor),
    )
    if outcomes is None:
        count = f"{complete()} of {len(chosen.runs)} runs are complete"
        console.print(Text(f"interrupted: {count}; the same command goes on from here"))
        return INTERRUPTED
    return _show(console, out, outcomes, chosen.sink_names)


def do_runs(
    console: Console, total: int | None, work: Callable[[Display], list[Outcome]]
) -> list[Outcome] | None:
    """What some work with runs gave; None if it was interrupted.

    Args:
        console: where it is shown.
        total: how many runs there are to do; None where nobody knows.
        work: does them, and tells a display.
    """
    try:
        with terminable(), display(console, total) as shown:
            return work(shown)
    except KeyboardInterrupt:
        return None


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: the terminal and the files are put in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show(console: Console, out: Path, outcomes: Sequence[Outcome], sinks: Sequence[str]) -> int:
    frame = load_study(out)
    if len(frame.filter(frame["task"] >= 0)):
        from isoplast.report import write_report  # brings plotly, which a single run need not wait for

        runs = load_runs(out)
        console.print(summary_table(frame, runs))
        console.print(Text(summary_sentence(frame, runs)))
        console.print(Text(escaped(f"report: {write_report(out)}")), soft_wrap=True)
    failed = [outcome for outcome in outcomes if outcome.failure]
    for outcome in failed:
        where = f"{outcome.run.label}, seed {outcome.run.seed}"
        line = f"failed: {where}: {outcome.failure}; see {outcome.directory.log}"
        console.print(Text(escaped(line), style="red"), soft_wrap=True)
    states = [outcome.directory.status() for outcome in outcomes if not outcome.failure]
    for sink in sinks:
        lacking = sum(state.state == "done" and sink not in state.sinks for state in states)
        if lacking:
            line = (
                f"sink {sink} lacks rows of {lacking} runs, whose logs say why; the same command sends them"
            )
            console.print(Text(line), soft_wrap=True)
    if failed:
        console.print(f"{len(failed)} of {len(outcomes)} runs failed; the same command tries them again")
    return 1 if failed else 0
