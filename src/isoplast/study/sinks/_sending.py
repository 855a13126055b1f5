"""Sending the rows of a run to its sinks, while it runs and afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from isoplast._core.errors import IsoplastError, reason_of
from isoplast._core.sinks import Write
from isoplast.study._parts import Part, make, part
from isoplast.study.run._random import random_numbers_kept
from isoplast.study.sinks._base import SentRun, Sink, numbers


class Sending:
    """A context in which sinks get rows; one that fails is left out from then on, which is said once.

    Args:
        sinks: where to.
        source: the run.
        directory: its directory; each sink has a folder in it, which is emptied.
        rows: those that there are already.
        say: told what failed, in a line.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        source: SentRun,
        directory: Path,
        rows: Sequence[Mapping[str, Any]],
        say: Callable[[str], None],
    ) -> None:
        self._sinks, self._source, self._directory = sinks, source, directory
        self._rows, self._say = rows, say
        self._open: dict[str, tuple[AbstractContextManager[Write], Write]] = {}
        self._failed: set[str] = set()

    @property
    def complete(self) -> list[str]:
        """The names of the sinks that have all rows."""
        return [sink.name for sink in self._sinks if sink.name not in self._failed]

    def __enter__(self) -> Sending:
        for sink in self._sinks:
            self._guarded(sink.name, self._start, sink)
        for row in self._rows:
            self.send(row)
        return self

    def _start(self, sink: Sink) -> None:
        folder = self._directory / sink.name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        context = sink.open(self._source, folder)
        self._open[sink.name] = context, context.__enter__()

    def send(self, row: Mapping[str, Any]) -> None:
        """Give every sink a row."""
        for name, (_, write) in list(self._open.items()):
            self._guarded(name, self._write, write, row)

    @staticmethod
    def _write(write: Write, row: Mapping[str, Any]) -> None:
        write(row["task"] + 1, numbers(row))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._open):
            context, _ = self._open.pop(name)
            self._guarded(name, context.__exit__, kind, error, trace)

    def _guarded(self, name: str, act: Callable[..., object], *arguments: Any) -> None:
        """Do something with a sink: what it raises must end no run, and what it draws change none."""
        try:
            with random_numbers_kept():
                act(*arguments)
        except Exception as error:
            if error in arguments:  # the run's own, passed on by a context that is left with it
                return
            self._failed.add(name)
            if name in self._open:
                context, _ = self._open.pop(name)
                self._guarded(name, context.__exit__, type(error), error, None)
            self._say(f"warning: sink {name} is left out from here on: {reason_of(error)}")


def as_parts(sinks: object) -> tuple[Part, ...]:
    """Sinks from whatever names them: each a name, a mapping with `name` and settings, or an object.

    Raises:
        IsoplastError: it is no list, a name or a setting is unknown, or a sink is there twice.
    """
    given = (sinks,) if isinstance(sinks, str | Mapping | Part | Sink) else sinks
    if not isinstance(given, Sequence):
        raise IsoplastError(f"sinks is {sinks!r}: give a list of names, such as [tensorboard, wandb]")
    parts = tuple(part("sink", one) for one in given)
    names = [make("sink", one).name for one in parts]
    for name in names:
        if names.count(name) > 1:
            raise IsoplastError(f"sink {name} is given twice: give it once")
    return parts


def opened(parts: Sequence[Part]) -> list[Sink]:
    """The sinks, ready to be opened.

    Raises:
        IsoplastError: the package of one is not installed.
    """
    sinks: list[Sink] = [make("sink", one) for one in parts]
    for sink in sinks:
        sink.check()
    return sinks
