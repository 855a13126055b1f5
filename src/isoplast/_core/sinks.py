"""Where numbers go: a file, a TensorBoard writer, a Weights & Biases run, a function."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from isoplast._core.errors import IsoplastError

Record: TypeAlias = Mapping[str, float]
Write: TypeAlias = Callable[[int, Record], object]


def sink(target: Any, axis: str = "monitor/step") -> Write:
    """What writes a record of one step to a target.

    Args:
        target: a path that ends in .csv (rows of step, name, value are appended); an object with `add_scalar`
            (a TensorBoard SummaryWriter) or with `log` (a Weights & Biases run); or a function of
            (step, record).
        axis: what a Weights & Biases run calls the step, "group/name"; numbers without a group get this one.

    Raises:
        IsoplastError: for anything else, and for a path that cannot be written.
    """
    if isinstance(target, str | os.PathLike):
        path = Path(target)
        if path.suffix != ".csv":
            raise IsoplastError(f"sink {str(path)!r} is no .csv file: rename it, or pass a writer")
        return _csv(path)
    if hasattr(target, "add_scalar"):
        return _scalars(target.add_scalar, axis)
    if hasattr(target, "log") and hasattr(target, "define_metric"):
        return _run(target, axis)
    if callable(target):
        return target  # type: ignore[no-any-return]
    raise IsoplastError(
        f"sink is a {type(target).__name__}: give a .csv path, a SummaryWriter, a wandb run or a function"
    )


def _numbers(record: Record, axis: str) -> dict[str, float]:
    """The record without its step, every name with a group in front."""
    group = axis.partition("/")[0]
    return {
        name if "/" in name else f"{group}/{name}": value for name, value in record.items() if name != "step"
    }


def _scalars(add: Callable[..., object], axis: str) -> Write:
    def write(step: int, record: Record) -> None:
        for name, value in _numbers(record, axis).items():
            add(name, value, step)

    return write


def _run(run: Any, axis: str) -> Write:
    """Records in the order of the run's own log calls, with the step as a metric to plot over.

    A step passed to `log` would move the count of a user whose own calls pass none.
    """
    known: set[str] = set()

    def write(step: int, record: Record) -> None:
        numbers = _numbers(record, axis)
        groups = {name.partition("/")[0] for name in numbers} - known
        for group in sorted(groups):
            run.define_metric(f"{group}/*", step_metric=axis)
        known.update(groups)
        run.log({**numbers, axis: step})

    return write


def _csv(path: Path) -> Write:
    """Long rows, since not every measure runs at every time; each record in one write, so none is torn."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.stat().st_size == 0:
            path.write_bytes(b"step,name,value\n")
    except OSError as error:
        raise IsoplastError(f"sink {str(path)!r} cannot be written: {error.strerror}") from error

    return partial(_append, path)


def _append(path: Path, step: int, record: Record) -> None:
    numbers = (item for item in record.items() if item[0] != "step")
    rows = "".join(f"{step},{_quoted(name)},{value!r}\n" for name, value in numbers)
    contents = rows.encode()
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if file.write(contents) != len(contents):  # a disk that became full on the way
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(mark in name for mark in ',"\n') else name
