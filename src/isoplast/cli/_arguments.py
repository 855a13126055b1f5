"""Arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from isoplast.study import EXECUTORS

Number = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
FilePath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
ExecutorName = Annotated[
    str, tyro.conf.arg(metavar="NAME", help=f"Where the runs are done: {', '.join(EXECUTORS.names())}.")
]
