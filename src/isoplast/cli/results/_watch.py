"""`isoplast watch`: how a study is going, from its files, wherever it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import tyro
from rich.console import Console
from rich.live import Live
from rich.text import Text

from isoplast._core.errors import IsoplastError
from isoplast._core.text import escaped
from isoplast.cli._arguments import Directory
from isoplast.cli.results._live_view import result_words, view
from isoplast.cli.results._show import results_directory
from isoplast.cli.results._states import states_words
from isoplast.study import Follower

_ENDED = ("done", "failed")

_Seconds = Annotated[float, tyro.conf.arg(metavar="SECONDS")]


def watch(directory: Directory, /, *, every: _Seconds = 2.0) -> int:
    """Watch a study, or a run, while it is done: on this machine or another one.

    Ends when nobody is working on it any more.

    Where its output is no terminal it prints a line when a run ends.

    Args:
        directory: Directory of the results.
        every: Time between two looks at its files.
    """
    if not 0.1 <= every <= 86_400:
        raise IsoplastError(f"every is {every}: give the seconds between two looks, from 0.1 to 86400")
    follower, console = Follower(results_directory(directory)), Console()
    try:
        if console.is_terminal:
            _live(console, follower, every)
        else:
            _lines(console, follower, every)
    except KeyboardInterrupt:
        return 0
    return _conclude(console, follower)


def _live(console: Console, follower: Follower, every: float) -> None:
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        _repeat(follower, every, lambda: live.update(view(follower, console), refresh=True))


def _lines(console: Console, follower: Follower, every: float) -> None:
    """One line for each run that has ended, beginning with a count of those that had before."""
    before: dict[str, str] = {}

    def show() -> None:
        states = {run.directory.path.name: run.status.state for run in follower.runs}
        if not before:
            print(escaped(f"{follower.path}: {states_words(list(states.values()))}"), flush=True)
        else:
            new = [run for run in follower.runs if run.status.state != before.get(run.directory.path.name)]
            new = [run for run in new if run.status.state in _ENDED]
            ended = sum(state in _ENDED for state in states.values()) - len(new)
            for count, run in enumerate(new, ended + 1):
                line = f"[{count}/{len(states)}] {run.status.state}: {result_words(run)}"
                print(escaped(line), flush=True)
        before.update(states)

    _repeat(follower, every, show)


def _repeat(follower: Follower, every: float, show: Callable[[], None]) -> None:
    """Look and show until nobody is at work on the study.

    That must be so at two looks in a row: between two rounds of a search there is a moment of it.
    """
    idle = 0
    while True:
        follower.look()
        show()
        idle = 0 if follower.active else idle + 1
        if idle == 2 or (idle and all(run.status.state in _ENDED for run in follower.runs)):
            return
        time.sleep(every)


def _conclude(console: Console, follower: Follower) -> int:
    states = [run.status.state for run in follower.runs]
    if all(state == "done" for state in states):
        console.print(Text("all runs are done"))
        return 0
    rest = sum(state not in _ENDED for state in states)
    if rest:
        line = f"nobody is working on it, and {rest} of {len(states)} runs are not done: its command goes on"
    else:
        line = f"{states.count('failed')} of {len(states)} runs failed: its command tries them again"
    console.print(Text(line), soft_wrap=True)
    return 1
