"""TensorBoard's event files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from isoplast._core.sinks import Record, Write, sink
from isoplast.study._yaml import dump_yaml
from isoplast.study.sinks._base import AXIS, SINKS, SentRun, Sink


@SINKS.register
@dataclasses.dataclass(frozen=True)
class TensorBoard(Sink):
    """Event files for TensorBoard, and the specification as a text.

    Example:
        `isoplast study demo --sink tensorboard`, then `tensorboard --logdir runs/demo`

    Reference:
        https://docs.pytorch.org/docs/stable/tensorboard.html
    """

    name: ClassVar[str] = "tensorboard"
    package: ClassVar[str] = "tensorboard"

    @contextmanager
    def open(self, source: SentRun, folder: Path) -> Iterator[Write]:
        """Write a file of events, whole after every row."""
        from torch.utils.tensorboard import SummaryWriter

        # A board that is open already drops what an earlier start of the run had sent.
        with SummaryWriter(str(folder), purge_step=0) as writer:
            writer.add_text("settings", f"```\n{dump_yaml(dict(source.settings))}\n```", 0)
            write = sink(writer, AXIS)

            def send(step: int, record: Record) -> None:
                write(step, record)
                writer.flush()

            yield send
