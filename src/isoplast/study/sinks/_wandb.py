"""Weights & Biases."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from isoplast._core.sinks import Record, Write, sink
from isoplast.study.sinks._base import AXIS, SINKS, SentRun, Sink

_LONGEST = 128  # characters of the id of a run


@SINKS.register
@dataclasses.dataclass(frozen=True)
class WeightsAndBiases(Sink):
    """A run of Weights & Biases, offline unless the variable WANDB_MODE says otherwise.

    `wandb sync` sends an offline run. Online, a run that is started again goes on under the same id.

    Args:
        project: None: that of the variable WANDB_PROJECT, else the study's name.
        entity: a user or a team; None: that of WANDB_ENTITY, else the default of the account.

    Example:
        `isoplast study demo --sink wandb`, then `wandb sync runs/demo/*/wandb/offline-run-*`

    Reference:
        https://docs.wandb.ai/ref/python/init
    """

    name: ClassVar[str] = "wandb"
    package: ClassVar[str] = "wandb"

    project: str | None = None
    entity: str | None = None

    @contextmanager
    def open(self, source: SentRun, folder: Path) -> Iterator[Write]:
        """Make a run of it; its exit code is 1 where ours did not come to its end."""
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        run = wandb.init(
            project=self.project or os.environ.get("WANDB_PROJECT") or source.study,
            entity=self.entity,
            id=source.id if len(source.id) <= _LONGEST else source.id[: _LONGEST - 9] + source.id[-9:],
            name=f"{source.label}, seed {source.seed}",
            group=source.label,
            config=dict(source.settings),
            dir=folder.parent,  # it makes a folder of that name itself
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )
        write, known = sink(run, AXIS), run.step  # rows that the server has had from an earlier start

        def send(step: int, record: Record) -> None:
            if step >= known:
                write(step, record)

        try:
            yield send
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish(exit_code=0)
