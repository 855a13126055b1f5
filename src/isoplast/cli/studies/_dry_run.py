"""`--dry-run`: what a study would do, what it is expected to cost, how long isometry has to act."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from isoplast._core.amounts import duration, thousands
from isoplast._core.text import escaped
from isoplast.cli._tables import plain_table
from isoplast.study import PlannedMethod, Study, by_problem, plan_study, usable_cores


def show_plan(study: Study, out: Path, jobs: int | None, threads: int, *, local: bool = True) -> int:
    """Print what `isoplast study` would do; returns the exit status.

    Args:
        study, out, jobs, threads: as for `run_study`.
        local: whether the runs would be processes on this machine.
    """
    console = Console()
    with console.status("") as status:
        planned = plan_study(
            study,
            out,
            threads=threads,
            listener=lambda run: status.update(Text(escaped(f"measuring some steps of {run.label}"))),
        )
    todo = sum(len(one.runs) - len(one.seeds("done")) for one in planned)
    count = f"{todo} of {len(study.runs)} runs to do, results in {out}; nothing is started"
    console.print(Text(escaped(f"{study.name}: {count}")), soft_wrap=True)
    console.print(_table(planned))
    for line in _notes(planned):
        console.print(Text(escaped(line)))
    at_once = min(todo, jobs or max(1, usable_cores() // threads)) if local else jobs or 1
    console.print(Text(_cost(planned, at_once)))
    return 0


def _table(planned: Sequence[PlannedMethod]) -> Table:
    specs = {str(place): one.runs[0].to_mapping() for place, one in enumerate(planned)}
    problems = by_problem(specs)
    named = {int(place): name for name, places in problems.items() for place in places}
    isometric = any(one.isometry for one in planned)
    table = plain_table()
    table.add_column("method", ratio=1, overflow="fold")
    table.add_column("seeds")
    table.add_column("steps", justify="right", no_wrap=True)
    if isometric:
        table.add_column("isometry time", justify="right")
    table.add_column("expected", justify="right", no_wrap=True)
    for place, one in enumerate(planned):
        name = one.runs[0].label + (f" on {named[place]}" if len(problems) > 1 else "")
        cells = [escaped(name), _seeds(one), "?" if one.steps is None else thousands(one.steps)]
        if isometric:
            cells.append(_times(one))
        left = one.seconds_left
        cells.append("?" if left is None else duration(left) if left else "done")
        table.add_row(*map(Text, cells))
    return table


def _seeds(one: PlannedMethod) -> str:
    groups = {
        "to do": one.seeds("waiting"),
        "running": one.seeds("running"),
        "interrupted": one.seeds("interrupted"),
        "failed": one.seeds("failed"),
        "done": one.seeds("done"),
    }
    return "\n".join(f"{ranges(seeds)} {state}" for state, seeds in groups.items() if seeds)


def ranges(numbers: Sequence[int]) -> str:
    """Whole numbers in few words.

    Example:
        >>> ranges([0, 1, 2, 5, 7, 8])
        '0-2, 5, 7, 8'
    """
    found: list[str] = []
    for _, group in itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        found += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run)
    return ", ".join(found)


def _times(one: PlannedMethod) -> str:
    """The isometry time in steps, and how often it passes within the steps that there are."""
    lines = []
    for found in one.isometry:
        time = thousands(found.shortest)
        if found.longest > 1.005 * found.shortest:
            time += f" to {thousands(found.longest)}"
        lines.append(f"{time}, {found.elapsed:.2g} x")
    return "\n".join(lines) or "-"


def _notes(planned: Sequence[PlannedMethod]) -> list[str]:
    lines = []
    if any(one.isometry for one in planned):
        lines.append("isometry time: 1 / (8 lr lambda) in steps, and how often it passes in a run.")
    short = [one.runs[0].label for one in planned if any(found.elapsed < 1 for found in one.isometry)]
    if short:
        lines.append(
            f"warning: a run is shorter than the isometry time of {'; '.join(short)}: only large singular "
            "values are pulled back; raise isometry, or set isometry_time to a tenth of the run."
        )
    notes: dict[str, list[str]] = {}
    for one in planned:
        if one.note:
            notes.setdefault(one.note, []).append(one.runs[0].label)
    whole = {note for note, labels in notes.items() if len(labels) == len(planned)}
    return [
        *lines,
        *(note if note in whole else f"{', '.join(labels)}: {note}" for note, labels in notes.items()),
    ]


def _cost(planned: Sequence[PlannedMethod], at_once: int) -> str:
    """The expected cost in words, and where it comes from."""
    left = [one for one in planned if one.tasks_left]
    if not left:
        return "nothing is left to do"
    known = [one for one in left if one.seconds_left is not None]
    if not known:
        return "expected: unknown until the data are here"
    seconds = sum(one.seconds_left or 0.0 for one in known)
    said = f"expected: about {duration(seconds)} of one process"
    if at_once > 1:
        said += f", about {duration(seconds / at_once)} with {at_once} at a time"
    if len(known) < len(left):
        said += f", without {', '.join(one.runs[0].label for one in left if one not in known)}"
    words = {
        "runs": "finished tasks of these runs",
        "method": "finished tasks of the same methods with other settings",
        "measured": "some steps and one set of measurements of a run of each method, taken just now",
    }
    sources = dict.fromkeys(one.source for one in known)
    origin = " and ".join(words[source] for source in words if source in sources)
    return escaped(f"{said}. From {origin}; the start of each process, some seconds, is not counted.")
