"""How a study is shown while it runs: live on a terminal, one line per event elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from isoplast._core.text import escaped
from isoplast.study import Display, Outcome, Run, metric
from isoplast.study import Progress as Place


@contextmanager
def display(console: Console, total: int | None) -> Iterator[Display]:
    """Show runs while the block works through them.

    Args:
        console: where to.
        total: how many there are; None where nobody knows.
    """
    if not console.is_terminal:
        yield _Lines(console, total)
        return
    label = Column(no_wrap=True, overflow="ellipsis", max_width=30)  # all fits 80 columns
    columns = (
        TextColumn("{task.description}", table_column=label),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=console, transient=True)
    try:
        yield _Live(console, progress, total)
    finally:
        progress.stop()


def _name(run: Run) -> str:
    return escaped(f"{run.label}, seed {run.seed}")


def _seconds(outcome: Outcome) -> str:
    return f"{outcome.directory.status().seconds:.0f}"


class _Lines:
    """One line when a run ends: for logs and pipes."""

    def __init__(self, console: Console, total: int | None) -> None:
        self.console, self.total, self.count = console, total, 0

    def started(self, run: Run) -> None:
        pass

    def progressed(self, run: Run, progress: Place) -> None:
        pass

    def ended(self, outcome: Outcome) -> None:
        self.count += 1
        word = "failed" if outcome.failure else "done"
        why = f": {escaped(outcome.failure)}" if outcome.failure else f" in {_seconds(outcome)} s"
        # Text, not markup: a reason may hold brackets.
        place = self.count if self.total is None else f"{self.count}/{self.total}"
        line = Text(f"[{place}] {word}: {_name(outcome.run)}{why}")
        self.console.print(line, style="red" if outcome.failure else "", soft_wrap=True)


class _Live(_Lines):
    """A bar for each run at work and one for all of them, from the first start on, after any download."""

    def __init__(self, console: Console, progress: Progress, total: int | None) -> None:
        super().__init__(console, total)
        self.progress = progress
        self.bars: dict[Run, TaskID] = {}
        self.all = progress.add_task("all runs", total=total, note="")

    def started(self, run: Run) -> None:
        self.progress.start()
        self.bars[run] = self.progress.add_task(escape(_name(run)), total=run.tasks, note="starting")

    def progressed(self, run: Run, progress: Place) -> None:
        place = progress.task + progress.done
        known = "" if progress.score is None else f"{metric(progress.primary).label} {progress.score:.2f}"
        self.progress.update(self.bars[run], completed=int(place), note=known)

    def ended(self, outcome: Outcome) -> None:
        super().ended(outcome)
        self.progress.remove_task(self.bars.pop(outcome.run))
        self.progress.advance(self.all)
