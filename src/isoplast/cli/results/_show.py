"""`isoplast show`: one study or one run: what it is, how far, who is best, what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from isoplast._core.amounts import ago, duration, size, thousands
from isoplast._core.errors import IsoplastError
from isoplast._core.text import escaped
from isoplast.cli._arguments import Directory
from isoplast.cli._tables import plain_table
from isoplast.cli.results._states import failures, states_words
from isoplast.cli.studies._summary import summary_line
from isoplast.study import (
    Ranking,
    RunDirectory,
    SettingPath,
    by_problem,
    disk_use,
    find_results,
    flat_settings,
    git_words,
    holds_results,
    load_runs,
    load_study,
    rank_methods,
    read_index,
    run_directories,
    varying,
)

if TYPE_CHECKING:
    import polars as pl

_FAILURES = 20  # so many are shown in full


def show(directory: Directory, /) -> int:
    """Show a study or a run: configuration, state, ranked methods, failures.

    Args:
        directory: Directory of the results.
    """
    console = Console()
    directory = results_directory(directory)
    if (directory / "spec.yaml").exists():
        _show_run(console, RunDirectory(directory))
    else:
        _show_study(console, directory)
    return 0


def results_directory(path: Path) -> Path:
    """The path, if results lie there.

    Raises:
        IsoplastError: none do; names those that lie below.
    """
    if holds_results(path):
        return path
    below = find_results(path)
    if below:
        names = ", ".join(map(str, below[:5])) + (" ..." if below[5:] else "")
        raise IsoplastError(f"{path} is no study and no run: name one of {names}")
    raise IsoplastError(f"{path} holds no results: give the directory of a study or of a run")


def _show_study(console: Console, path: Path) -> None:
    index = read_index(path)
    runs = load_runs(path)
    used, changed = disk_use(path)
    states = states_words(runs["state"].to_list())
    count = f"{len(runs)} runs: {states}" if len(runs) > 1 else states
    _print(console, f"{index.name if index else 'runs without a study'} in {path}", style="bold")
    if index and index.about:
        _print(console, index.about)
    _print(console, f"{count}; {size(used)}, changed {ago(changed)}")
    if not len(runs):
        return
    specs = {one.path.name: one.read_settings() for one in run_directories(path)}
    flat = {run: flat_settings(spec) for run, spec in specs.items()}
    differing = varying(list(flat.values()))
    console.print(_common(next(iter(flat.values())), differing))
    problems = by_problem(specs)
    settings: dict[str, dict[SettingPath, Any]] = {}
    for problem, members in problems.items():
        for run in members:
            label = str(specs[run].get("label", ""))
            settings.setdefault(f"{label} on {problem}" if len(problems) > 1 else label, flat[run])
    if len(settings) > 1:
        console.print(_differing(settings, differing))
    for ranking in rank_methods(path, load_study(path), runs, compare=False):
        _show_ranking(console, ranking)
    _show_failures(console, path, runs)


def _show_run(console: Console, directory: RunDirectory) -> None:
    spec, status = directory.read_settings(), directory.status()
    used, changed = disk_use(directory.path)
    _print(console, f"{spec.get('label', '')}, seed {spec['seed']}, in {directory.path}", style="bold")
    tasks = spec["stream"].get("tasks")
    of = "" if tasks is None else f" of {tasks}"
    _print(
        console,
        f"{status.state}: {status.tasks}{of} tasks, {thousands(status.steps)} steps in "
        f"{duration(status.seconds)}, at most {size(status.peak_memory)} of memory, "
        f"started {_times(status.attempts)}; {size(used)}, changed {ago(changed)}",
    )
    frame = load_study(directory.path)
    if len(frame.filter(frame["task"] >= 0)):
        _print(console, summary_line(frame))
    console.print(_common(flat_settings(spec), ()))
    if origin := status.provenance:
        versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
        _print(console, f"made with {versions}; {git_words(origin['git'])}; {origin['data']['note']}")
    _show_failures(console, directory.path, load_runs(directory.path))


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _common(settings: Mapping[SettingPath, Any], differing: Sequence[SettingPath]) -> Table:
    """What all runs have in common: a line for each part."""
    table = Table.grid(padding=(0, 2))
    parts: dict[str, list[str]] = {}
    for path, value in settings.items():
        if path not in differing:
            parts.setdefault(path[0], []).append(_setting(path, value))
    for part, said in parts.items():
        table.add_row(Text(escaped(part)), Text(escaped(", ".join(said))))
    return table


def _differing(settings: Mapping[str, Mapping[SettingPath, Any]], differing: Sequence[SettingPath]) -> Table:
    """What differs between methods: a line for each."""
    table = plain_table()
    table.add_column("method", ratio=1, overflow="fold")
    table.add_column("what differs", ratio=2, overflow="fold")
    for label, own in settings.items():
        said = [_difference(path, own[path]) for path in differing if path in own]
        table.add_row(Text(escaped(label)), Text(escaped(", ".join(said))))
    return table


def _difference(path: SettingPath, value: Any) -> str:
    """A setting of a part by its own name, all others by their full one."""
    if len(path) == 1:
        return f"{path[0]} {_setting(path, value)}"
    return f"switch.{_setting(path, value)}" if path[0] == "switch" else _setting(path, value)


def _setting(path: SettingPath, value: Any) -> str:
    said = f"{value:g}" if isinstance(value, float) else str(value)
    return said if len(path) == 1 else f"{'.'.join(path[1:])} {said}"


def _show_ranking(console: Console, ranking: Ranking) -> None:
    title = f"{ranking.problem}: {ranking.label}, mean over all tasks; the last tenth of them - the first"
    if ranking.table is None:
        _print(console, f"{ranking.problem}: {ranking.reason}")
        return
    table = plain_table(escaped(title))
    table.add_column("", justify="right")
    table.add_column("method", ratio=1, overflow="fold")
    for name in (ranking.label, "late - early"):
        table.add_column(escaped(name), justify="right", no_wrap=True)
    table.add_column("seeds", justify="right")
    rows = ranking.table.rows(named=True)
    for place, row in enumerate(rows, 1):
        change = "-" if row["change"] is None else f"{row['change']:+.3f}"
        table.add_row(str(place), Text(escaped(row["method"])), _interval(row), change, Text(_counts(row)))
    console.print(table)
    if any(row["exploratory"] for row in rows):
        _print(console, "Exploratory: fewer than ten seeds. Intervals: 95 %, over seeds.")


def _interval(row: Mapping[str, Any]) -> Text:
    value, low, high = (row[name] for name in ("score", "score_low", "score_high"))
    if value is None:
        return Text("-")
    return Text(f"{value:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"))


def _counts(row: Mapping[str, Any]) -> str:
    said = [str(row["seeds"])]
    said += [f"{row[key]} {key}" for key in ("failed", "unfinished") if row[key]]
    return ", ".join(said)


def _show_failures(console: Console, path: Path, runs: pl.DataFrame) -> None:
    failed = failures(path, runs)
    for who, reason, directory in failed[:_FAILURES]:
        _print(console, f"failed: {who}: {reason}; see {directory.log}", style="red")
    if failed[_FAILURES:]:
        _print(console, f"and {len(failed) - _FAILURES} more", style="red")


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(Text(escaped(text), style=style), soft_wrap=not console.is_terminal)
