"""Arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from isoplast.study import EXECUTORS, SINKS

Number = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
FilePath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
ExecutorName = Annotated[
    str, tyro.conf.arg(metavar="NAME", help=f"Where the runs are done: {', '.join(EXECUTORS.names())}.")
]
Words = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[KEY=VALUE ...]", help_behavior_hint="")
]
FileOrName = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE_OR_NAME", help_behavior_hint="")
]
Address = Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="")]
Sinks = Annotated[
    tuple[str, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(
        metavar="NAME", help=f"Where the numbers go, too: {', '.join(SINKS.names())}.", help_behavior_hint=""
    ),
]
