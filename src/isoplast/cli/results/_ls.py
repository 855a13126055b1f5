"""`isoplast ls`: the studies and runs below a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.text import Text

from isoplast._core.amounts import ago, size
from isoplast._core.errors import IsoplastError
from isoplast._core.text import escaped, one_line
from isoplast.cli._tables import plain_table
from isoplast.cli.results._states import states_words
from isoplast.study import disk_use, find_results, load_runs, load_study, rank_methods

_Directories = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[DIR ...]", help_behavior_hint="")
]


def ls(directories: _Directories = (), /) -> int:
    """List the studies and runs below a folder.

    Args:
        directories: Where to look; by default in runs.
    """
    console = Console()
    folders = directories or (Path("runs"),)
    found = [path for folder in folders for path in find_results(folder)]
    if not found:
        console.print(Text(escaped(f"no results in {', '.join(map(str, folders))}")), soft_wrap=True)
        return 0
    table = plain_table()
    table.add_column("results", ratio=5, overflow="fold")
    table.add_column("runs", ratio=4)
    table.add_column("best", ratio=5, overflow="fold")
    table.add_column("changed", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    with console.status("") as status:
        for path in found:
            status.update(Text(escaped(str(path))))
            used, changed = disk_use(path)
            cells = (*_words(path), ago(changed), size(used))
            table.add_row(*(Text(escaped(cell)) for cell in (str(path), *cells)))
    console.print(table)
    return 0


def _words(path: Path) -> tuple[str, str]:
    """The states of its runs, and its best method."""
    try:
        runs = load_runs(path)
        first, *others = rank_methods(path, load_study(path), runs, compare=False)
    except IsoplastError as error:
        return "damaged", one_line(str(error), 100)
    states = states_words(runs["state"].to_list())
    if first.table is None:
        return states, "-"
    best = first.table.row(0, named=True)
    if best["score"] is None:
        return states, "-"
    more = f" (and {len(others)} other problems)" if others else ""
    return states, f"{best['method']}: {first.label} {best['score']:.3f}{more}"
