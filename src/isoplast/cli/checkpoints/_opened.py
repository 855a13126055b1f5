"""What `isoplast inspect` and `isoplast repair` work on: the networks of a file, a history, or a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from isoplast._core.errors import IsoplastError, unknown
from isoplast.diagnostics import Moment, weight_spectra
from isoplast.model import (
    Checkpoint,
    Network,
    NoWeights,
    checkpoint_history,
    is_sharded,
    read_checkpoint,
    read_tensor,
)
from isoplast.study import RunDirectory, foreign_parts, open_run, read_rows

_SAMPLES = 1280  # of a run's own data: as many as the demo has
_NAMED = 3  # weights, files and networks that a line spells out


@dataclass(frozen=True)
class Subject:
    """One network.

    Attributes:
        name: where it lies in the file; empty where it is the whole file.
        model: what is inspected: a module, or a state dict.
        trained: what is repaired: the same, but for methods that evaluate another network than they train.
        unread: weights that cannot be measured, by name, with the reason.
        initial: the same network in the first checkpoint of a history, or its largest singular values.
    """

    name: str
    model: nn.Module | Mapping[str, Any]
    trained: nn.Module | Mapping[str, Any]
    unread: Mapping[str, str]
    initial: Mapping[str, Any] | None = None

    @property
    def dtypes(self) -> list[Any]:
        """Of its floating weights."""
        model = self.model
        values = model.parameters() if isinstance(model, nn.Module) else model.values()
        return [value.dtype for value in values if isinstance(value, Tensor) and value.is_floating_point()]


@dataclass(frozen=True)
class Opened:
    """What a command works on.

    Attributes:
        checkpoint: the file, the last one of a history.
        subjects: the networks that are judged.
        inputs: of a run, its last task's; else None.
        run: the id of a run of isoplast, or None.
        moments: the history.
        about: lines about what was opened.
    """

    checkpoint: Checkpoint
    subjects: tuple[Subject, ...]
    inputs: Tensor | None = None
    run: str | None = None
    moments: tuple[Moment, ...] = ()
    about: tuple[str, ...] = ()

    def inputs_of(self, subject: Subject, given: Path | None) -> Tensor | None:
        """The inputs of a subject in its own precision: given ones, those of a run, or None."""
        if given is None:
            return self.inputs
        if len(self.subjects) > 1:
            names = ", ".join(one.name for one in self.subjects)
            raise IsoplastError(f"inputs are for one network, and there are {names}: choose one with --only")
        inputs, kinds = read_tensor(given), subject.dtypes
        return inputs.to(kinds[0]) if inputs.is_floating_point() and kinds else inputs


@contextlib.contextmanager
def opened(path: Path, network: str | None) -> Iterator[Opened]:
    """Open a file, a directory of checkpoints, or a run.

    Args:
        path: of it.
        network: the name of the one to look at; None is all.
    """
    if path.is_dir() and (path / "study.yaml").exists():
        raise IsoplastError(f"{path} is a study: inspect one of its runs, or see `isoplast report {path}`")
    directory = path if path.is_dir() else path.parent
    if (directory / "spec.yaml").exists() and (path.is_dir() or path.name == "checkpoint.pt"):
        with _opened_run(directory) as found:
            yield found
    elif path.is_dir() and not is_sharded(path):
        yield _opened_history(path, network)
    else:
        checkpoint = read_checkpoint(path)
        subjects = _subjects(checkpoint, network)
        yield Opened(checkpoint, subjects, about=_about(checkpoint, subjects))


def _subjects(checkpoint: Checkpoint, network: str | None) -> tuple[Subject, ...]:
    """The networks to judge: all but averages, and those of which nothing can be measured."""
    names = {one.name: one for one in checkpoint.networks}
    if network is not None:
        if network not in names:
            raise unknown("network", network, names)
        return (_subject(names[network]),)
    whole = [one for one in checkpoint.networks if one.average_of is None]
    return tuple(map(_subject, [one for one in whole if has_matrix(one.measured)]))


def has_matrix(state: Mapping[str, Any]) -> bool:
    """Whether there is anything to measure in a state dict."""
    return any(isinstance(one, Tensor) and one.ndim > 1 and one.is_floating_point() for one in state.values())


def _subject(network: Network) -> Subject:
    return Subject(network.name, network.measured, network.measured, network.unread)


def _about(checkpoint: Checkpoint, subjects: tuple[Subject, ...]) -> tuple[str, ...]:
    lines = [_layout(checkpoint)]
    if len(checkpoint.networks) > 1:
        lines.append(f"judged: {', '.join(subject.name or 'the file' for subject in subjects)}")
    chosen = {subject.name for subject in subjects}
    for network in checkpoint.networks:
        if network.name in chosen:
            lines += _unread(network.name, network.unread, len(checkpoint.networks) > 1)
        elif network.average_of is not None:
            of = "/".join(map(str, network.average_of)) or "the file"
            lines.append(f"not judged: {network.name}, an average of {of}; see it with --only {network.name}")
        elif network.unread:
            lines += _unread(network.name, network.unread, True)
        else:
            lines.append(f"not judged: {network.name}")
    return tuple(lines)


def _unread(name: str, unread: Mapping[str, str], several: bool) -> list[str]:
    if not unread:
        return []
    said = [f"{one} ({reason})" for one, reason in list(unread.items())[:_NAMED]]
    more = f" and {len(unread) - _NAMED} more" if len(unread) > _NAMED else ""
    of = f" of {name}" if several and name else ""
    return [f"not measured: {len(unread)} weights{of}: {', '.join(said)}{more}"]


def _layout(checkpoint: Checkpoint) -> str:
    tensors = [tensor for network in checkpoint.networks for tensor in network.tensors.values()]
    count = sum(tensor.numel() for tensor in tensors)
    kind = "torch file" if checkpoint.metadata is None else "safetensors"
    kind = "network in several files" if checkpoint.path.is_dir() else kind
    one = len(checkpoint.networks) == 1
    where = f" at {checkpoint.networks[0].name}" if one and checkpoint.where else ""
    several = "" if one else f" of {len(checkpoint.networks)} networks"
    return f"{kind}, {len(tensors)} tensors with {count:,} numbers{several}{where}"


def _opened_history(directory: Path, network: str | None) -> Opened:
    """The last checkpoint with weights; the others are its history, files without any are passed over."""
    read: list[tuple[str, Checkpoint]] = []
    moments: list[Moment] = []
    passed: list[str] = []
    initial: dict[str, Mapping[str, Any]] = {}
    for name, path in checkpoint_history(directory):
        try:
            checkpoint = read_checkpoint(path)
            subjects = _subjects(checkpoint, network)
        except NoWeights:
            passed.append(path.name)
            continue
        if not read:
            initial = {one.name: one.model for one in subjects if isinstance(one.model, Mapping)}
        read = [*read[:1], (name, checkpoint)]
        moments.append(_moment(name, subjects))
    if not read:
        raise IsoplastError(f"{directory} holds no weights: {', '.join(passed[:_NAMED])} hold none")
    last, checkpoint = read[-1]
    several = len(moments) > 1
    subjects = tuple(
        Subject(one.name, one.model, one.trained, one.unread, _start(initial.get(one.name), one))
        if several
        else one
        for one in _subjects(checkpoint, network)
    )
    about = [f"{len(moments)} checkpoints, from {read[0][0]} to {last}, which is judged"]
    if passed:
        about.append(f"passed over, no weights: {', '.join(passed)}")
    return Opened(checkpoint, subjects, None, None, tuple(moments), (*about, *_about(checkpoint, subjects)))


def _start(initial: Mapping[str, Any] | None, subject: Subject) -> Mapping[str, Any] | None:
    now = subject.model
    same = isinstance(now, Mapping) and initial is not None and _shapes(initial) == _shapes(now)
    return initial if same else None


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(one.shape) if isinstance(one, Tensor) else None for name, one in state.items()}


def _moment(name: str, subjects: tuple[Subject, ...]) -> Moment:
    layers = {
        f"{subject.name}/{layer}" if len(subjects) > 1 else layer: one
        for subject in subjects
        for layer, one in weight_spectra(subject.model).items()
    }
    return Moment(
        name,
        {layer: one.largest for layer, one in layers.items()},
        {layer: one.smallest for layer, one in layers.items()},
        {},
    )


@contextlib.contextmanager
def _opened_run(path: Path) -> Iterator[Opened]:
    directory = RunDirectory(path)
    settings = directory.read_settings()
    foreign = foreign_parts(settings)
    if foreign:  # looking at results runs nobody's code
        if not directory.checkpoint.exists():
            raise IsoplastError(f"{path} has no checkpoint yet: no task of the run is finished")
        checkpoint = read_checkpoint(directory.checkpoint)
        about = (
            f"run: {settings.get('label', path.name)}; weights alone: {', '.join(foreign)} is not imported"
        )
        yield Opened(
            checkpoint, _subjects(checkpoint, None), run=path.name, moments=_recorded(directory),
            about=(about,),
        )  # fmt: skip
        return
    found = open_run(path)
    checkpoint = read_checkpoint(directory.checkpoint)
    run, inputs = found.run, found.inputs[:_SAMPLES]
    data = f" of {run.data.name}" if run.data else ""
    about_run = (
        f"run: {run.label} on {run.stream.name}{data}, seed {run.seed}, "
        f"after {found.finished} of {run.tasks} tasks",
        f"inputs: {len(inputs)} of its last task",
    )
    with found.evaluated() as network:
        moments = _recorded(directory)
        subject = Subject("", network, found.network, {}, moments[0].largest if moments else None)
        yield Opened(checkpoint, (subject,), inputs, run.id, moments, about_run)


def _recorded(directory: RunDirectory) -> tuple[Moment, ...]:
    """The history of a run, as its metrics tell it."""
    return tuple(
        Moment(
            "untrained" if row["task"] < 0 else f"task {row['task']}",
            _by_name(row, "layers", "sigma_max"),
            _by_name(row, "layers", "sigma_min"),
            _by_name(row, "units", "dead"),
        )
        for row in read_rows(directory.metrics)
        if "layers" in row  # a run may have measured the scores alone
    )


def _by_name(row: Mapping[str, Any], names: str, metric: str) -> dict[str, float]:
    return dict(zip(row.get(names, ()), map(float, row.get(metric, ())), strict=True))
