"""What `isoplast watch` shows: states, a bar, a curve for each method, the runs at work."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from isoplast._core.amounts import duration
from isoplast._core.text import escaped
from isoplast.cli._tables import plain_table
from isoplast.cli.results._states import states_words
from isoplast.study import FollowedRun, Follower, by_problem, metric

_BARS = "▁▂▃▄▅▆▇█"
_LETTERS = ".:-=+*#@"  # for terminals of few letters
_WIDTH = 20  # characters of a curve
_SHOWN = 6  # runs at work, and failed runs, that are named


def result_words(run: FollowedRun) -> str:
    """What became of a run, in one line."""
    name = f"{run.label}, seed {run.spec['seed']}"
    if run.status.state == "failed":
        return f"{name}: {run.status.reason}; see {run.directory.log}"
    if not run.scores:
        return name
    mean = sum(run.scores) / len(run.scores)
    return f"{name}: {metric(run.primary).label} {mean:.3f} (mean over {len(run.scores)} tasks)"


@dataclass(frozen=True)
class _Arm:
    """The runs of one method on one problem."""

    label: str
    runs: tuple[FollowedRun, ...]

    @property
    def curve(self) -> list[float]:
        """The mean over the seeds that have got so far, task by task."""
        columns = itertools.zip_longest(*(run.scores for run in self.runs))
        return [_mean([value for value in column if value is not None]) for column in columns]

    @property
    def length(self) -> int:
        """Tasks of a whole run, as far as that is known."""
        return max(len(self.curve), *(run.tasks or 0 for run in self.runs))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _arms(runs: Sequence[FollowedRun]) -> dict[str, list[_Arm]]:
    """The methods on each problem."""
    known = {run.directory.path.name: run for run in runs}
    problems = by_problem({name: run.spec for name, run in known.items()})
    found = {}
    for problem, members in problems.items():
        methods: dict[str, list[FollowedRun]] = {}
        for member in members:
            methods.setdefault(known[member].label, []).append(known[member])
        found[problem] = [_Arm(label, tuple(own)) for label, own in methods.items()]
    return found


def view(follower: Follower, console: Console) -> RenderableType:
    """All of it, as high as the terminal allows."""
    runs = follower.runs
    parts: list[RenderableType] = [Text(escaped(str(follower.path)), style="bold"), *_progress(follower)]
    room = max(3, console.height - 9 - 2 * min(_SHOWN, len(runs)))
    for problem, arms in _arms(runs).items():
        primary = next((run.primary for arm in arms for run in arm.runs if run.primary), "")
        if not primary:
            continue
        higher = metric(primary).higher_is_better is not False
        first = sorted(arms, key=lambda arm: _rank(arm, higher))[:room]
        shown = [arm for arm in arms if arm in first]
        parts.append(_curves(problem, metric(primary).label, shown, str(console.encoding)))
        if len(arms) > len(shown):
            parts.append(Text(f"and {len(arms) - len(shown)} that are not as good so far"))
    return Group(*parts, *_at_work(runs, _overflow(str(console.encoding))))


def _has_all(encoding: str) -> bool:
    """Whether a terminal has more than a few letters."""
    return encoding.lower().startswith("utf")


def _overflow(encoding: str) -> OverflowMethod:
    """How a text that is too long ends."""
    return "ellipsis" if _has_all(encoding) else "crop"


def _rank(arm: _Arm, higher: bool) -> float:
    mean = _mean(arm.curve)
    return math.inf if math.isnan(mean) else -mean if higher else mean


def _progress(follower: Follower) -> list[RenderableType]:
    """States, a bar of tasks, the time that is left."""
    runs = follower.runs
    total = sum(run.tasks or run.status.tasks for run in runs if run.status.state != "failed")
    done = sum(run.status.tasks for run in runs if run.status.state != "failed")
    line = f"{len(runs)} runs: {states_words([run.status.state for run in runs])}"
    spent = sum(run.status.seconds for run in runs if run.status.tasks)
    tasks = sum(run.status.tasks for run in runs)
    if follower.active and tasks:
        at_once = max(1, sum(run.status.state == "running" for run in runs))  # one may be starting
        line += f"; about {duration((total - done) * spent / tasks / at_once)} left"
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=max(total, 1), completed=done, width=40), f"{done} of {total} tasks")
    return [Text(line), grid]


def _curves(problem: str, label: str, arms: Sequence[_Arm], encoding: str) -> Table:
    table = plain_table(escaped(f"{problem}: {label}"))
    table.add_column("method", ratio=1, no_wrap=True, overflow=_overflow(encoding))
    for name in ("runs", "mean", "last"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("per task", no_wrap=True, min_width=_WIDTH)
    known = [value for arm in arms for value in arm.curve if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    steps = _BARS if _has_all(encoding) else _LETTERS
    for arm in arms:
        curve = arm.curve
        done = sum(run.status.state == "done" for run in arm.runs)
        numbers = [f"{value:.3f}" if math.isfinite(value) else "-" for value in (_mean(curve), *curve[-1:])]
        table.add_row(
            Text(escaped(arm.label)),
            f"{done}/{len(arm.runs)}",
            numbers[0],
            numbers[1] if len(numbers) > 1 else "-",
            Text(sparkline(curve, arm.length, low, high, steps)),
        )
    return table


def sparkline(
    values: Sequence[float], length: int, low: float, high: float, steps: str = _BARS, width: int = _WIDTH
) -> str:
    """A curve in one line of text, at most `width` characters for a whole one.

    Args:
        values: the curve so far; what is not finite is left blank.
        length: how many values a whole one has.
        low, high: what the lowest and the highest character stand for.
        steps: the characters.
        width: how many of them.

    Example:
        >>> sparkline([0.0, 0.5, 1.0], 3, 0.0, 1.0)
        '▁▅█'
    """
    places = min(width, max(length, 1))
    edges = [round(place * length / places) for place in range(places + 1)]
    said = ""
    for begin, end in itertools.pairwise(edges):
        mean = _mean(values[begin:end])
        if math.isnan(mean):
            said += " "
            continue
        share = (mean - low) / (high - low) if high > low else 1.0
        said += steps[min(len(steps) - 1, int(share * len(steps)))]
    return said.rstrip()


def _at_work(runs: Sequence[FollowedRun], overflow: OverflowMethod) -> list[Text]:
    """The runs at work, and those that failed."""
    lines = []
    working = [run for run in runs if run.status.state == "running"]
    for run in working[:_SHOWN]:
        of = "" if run.tasks is None else f" of {run.tasks}"
        pace = f", {duration(run.status.seconds / run.status.tasks)} a task" if run.status.tasks else ""
        said = f"at work: {run.label}, seed {run.spec['seed']}: {run.status.tasks}{of} tasks{pace}"
        lines.append(Text(escaped(said), no_wrap=True, overflow=overflow))
    failed = [run for run in runs if run.status.state == "failed"]
    for run in failed[-_SHOWN:]:
        lines.append(
            Text(escaped(f"failed: {result_words(run)}"), style="red", no_wrap=True, overflow=overflow)
        )
    for count, state in ((len(working[_SHOWN:]), "at work"), (len(failed[:-_SHOWN]), "failed")):
        if count:
            lines.append(Text(f"and {count} more {state}"))
    return lines
