"""The results table, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence

from isoplast.report.data._isometry import Isometry, isometry
from isoplast.report.data._method_runs import MethodRuns, fine_print
from isoplast.report.data._numbers import scores
from isoplast.report.data._source import RunRecord, Source
from isoplast.report.html._document import NONE, Alarming, Table

_HEAD = (
    *("Method", "First task", "Worst task", "Last task", "Mean", "Seeds", "lr"),
    *("λ", "Time constant", "Isometry time"),
)
_ALWAYS = 6  # the columns up to the seeds
_OPEN = {"running": "still running", "waiting": "not started yet"}


def results_table(results: Sequence[MethodRuns]) -> Table:
    """One row per method: what was set, what it reached, how long isometry had to act."""
    caption = (
        f"{results[0].metric.label.capitalize()} after the first and the last task, after the task at which "
        "the mean over seeds is worst, and over all tasks: mean ± standard deviation over seeds. Time "
        "constant: 1/(8 lr λ), the steps in which a singular value's excess over 1 falls to 1/e. "
        "Isometry time: 8 lr λ × steps, the length of the run in time constants."
    )
    note = fine_print(results)
    if note:
        caption += f" {note[0].upper()}{note[1:]}."
    rows = [_row(result) for result in results]
    kept = [place for place in range(len(_HEAD)) if place < _ALWAYS or not _says_nothing(rows, place)]
    return Table(caption, [_HEAD[place] for place in kept], [[row[place] for place in kept] for row in rows])


def _says_nothing(rows: Sequence[Sequence[str]], place: int) -> bool:
    """Whether a column is empty, or the same for all methods: then the configuration says it once."""
    cells = {row[place] for row in rows}
    return cells == {NONE} or (_HEAD[place] == "lr" and len(rows) > 1 and len(cells) == 1)


def _row(result: MethodRuns) -> list[str]:
    reached = scores(result)
    numbers = [str(one) for one in (reached.first, reached.worst, reached.last, reached.mean)]
    settings = [str(len(result.seeds)), f"{result.settings['lr']:g}"]
    return [result.label, *numbers, *settings, *_times(isometry(result))]


def _times(found: Isometry | None) -> list[str]:
    if found is None:
        return [NONE, NONE, NONE]
    elapsed = f"{found.elapsed:.3g}" if found.elapsed >= 1 else Alarming(f"{found.elapsed:.2g} (short)")
    return [f"{found.strength:.3g}", f"{found.constant:,.0f}", elapsed]


def troubles(source: Source, results: Sequence[MethodRuns]) -> list[tuple[str, str]]:
    """Warnings, what and in which words: runs too short for their isometry, failed, or not complete."""
    return [*_too_short(results), *_incomplete(source)]


def _too_short(results: Sequence[MethodRuns]) -> list[tuple[str, str]]:
    found = [(result.label, isometry(result)) for result in results]
    short = [f"{label} ({time.elapsed:.2g})" for label, time in found if time and time.elapsed < 1]
    if not short:
        return []
    words = (
        f"{'; '.join(short)}, in time constants. A run of x < 1 time constants pulls back only the singular "
        "values above 1/√(1 − e⁻ˣ); for more raise λ, or set isometry_time to a tenth of the run's steps."
    )
    return [("Shorter than the time constant of the isometry:", words)]


def _incomplete(source: Source) -> list[tuple[str, str]]:
    """Runs that failed or were interrupted, each with where and why; the others only by number."""
    records = list(source.records.values())
    ended = [record for record in records if record.state in ("failed", "interrupted")]
    counts = {words: sum(record.state == state for record in records) for state, words in _OPEN.items()}
    said = [_ended(record) for record in ended]
    if any(counts.values()):
        words = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        said.append(("Not complete:", f"of {len(records)} runs, {words}."))
    return said


def _ended(record: RunRecord) -> tuple[str, str]:
    why = f": {record.reason}" if record.reason else ""
    return (
        f"{record.label}, seed {record.seed}, {record.state}",
        f"after {record.tasks} of {record.spec['stream']['tasks']} tasks{why}. Its finished tasks "
        f"count. It is run {record.id}.",
    )
