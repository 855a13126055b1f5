"""`isoplast inspect` and `isoplast repair`: a look into a checkpoint, and its repair."""

from __future__ import annotations

import contextlib
import json as json_format
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast._core.files import write_whole
from isoplast._core.text import text_table
from isoplast.diagnostics import Inspection, Moment, format_number, repair_, weight_spectra
from isoplast.diagnostics import inspect as inspect_model
from isoplast.model import (
    Checkpoint,
    checkpoint_history,
    is_sharded,
    read_checkpoint,
    read_tensor,
    write_checkpoint,
)
from isoplast.study import RunDirectory, foreign_parts, open_run, read_rows, strict_json

_WIDTH = 79
_SHOWN = 8  # findings of one kind
_SAMPLES = 1280  # of a run's own data: as many as the demo has

_File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
_Path = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
_Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
_Layers = Annotated[Literal["critical", "all"], tyro.conf.arg(metavar="WHICH")]
_Out = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="OUT", help_behavior_hint="(required)")]


def inspect(file: _File, *, inputs: _Path = None, json: _Flag = False, html: _Path = None) -> int:
    """Look into a checkpoint for what keeps a network from learning.

    Code in a pickle is never run: only tensors are read.

    Exit status: 0 healthy, perhaps with warnings; 1 critical; 2 wrong input.

    Args:
        file: A .safetensors or torch file, a run of isoplast, or a directory of checkpoints, which shows
            their history.
        inputs: Inputs that show dead units: .npy, .pt or .safetensors. A run of isoplast brings its own, any
            other network must be a plain chain of linear layers.
        json: Print the numbers as JSON.
        html: Write a page with plots there.
    """
    with _opened(file) as opened:
        found = _inspected(opened, inputs)
    if html is not None:
        from isoplast.report import inspection_page  # brings plotly

        page = inspection_page(str(file), opened.about, found, opened.moments)
        try:
            write_whole(html, page.encode())
        except OSError as error:  # no illness: status 1 would say so
            raise IsoplastError(f"{html} cannot be written: {error.strerror or error}") from error
    if json:
        print(json_format.dumps(_as_json(file, found, opened.moments), indent=1, allow_nan=False))
    else:
        print(_as_text(file, opened, found))
        if html is not None:
            print(f"page: {html}")
    return 0 if found.healthy else 1


def repair(file: _File, *, out: _Out, inputs: _Path = None, layers: _Layers = "critical") -> int:
    """Repair a checkpoint, and write it to a new file of the same layout.

    Critical layers get the nearest weights with all singular values 1.

    Biases that keep units dead for good are set to zero.

    Args:
        file: The checkpoint, or the directory of a run.
        out: The new file; it must not exist yet.
        inputs: As for `isoplast inspect`.
        layers: Those that `isoplast inspect` finds critical, or all.
    """
    if out.exists():
        raise IsoplastError(f"{out} exists: choose another name, nothing is overwritten")
    with _opened(file) as opened:
        if opened.moments and opened.run is None:
            raise IsoplastError(f"{file} holds several checkpoints: repair one of them")
        data = _inputs(opened, inputs)
        repaired = repair_(opened.trained, data, layers=layers)
        if repaired.layers and isinstance(opened.trained, nn.Module):
            for name, value in opened.trained.state_dict().items():
                if isinstance(value, Tensor):
                    opened.checkpoint.state[name].copy_(value)
    print(repaired)
    if repaired.layers:
        write_checkpoint(opened.checkpoint, out)
        print(f"written: {out}")
    else:
        print("nothing is written; --layers all repairs every layer anyway")
    return 0


@dataclass(frozen=True)
class _Opened:
    """What a command works on.

    Attributes:
        checkpoint: the file, the last one of a history.
        model: what is inspected: a module, or a state dict.
        trained: what is repaired: the same, but for methods that evaluate another network than they train.
        inputs: of a run, its last task's; else None.
        run: whether it is a run of isoplast.
        initial: the first checkpoint of a history.
        moments: the history.
        about: lines about what was opened.
    """

    checkpoint: Checkpoint
    model: nn.Module | Mapping[str, Any]
    trained: nn.Module | Mapping[str, Any]
    inputs: Tensor | None = None
    run: str | None = None
    initial: Mapping[str, Any] | None = None
    moments: tuple[Moment, ...] = ()
    about: tuple[str, ...] = ()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    if path.is_dir() and (path / "study.yaml").exists():
        raise IsoplastError(f"{path} is a study: inspect one of its runs, or see `isoplast report {path}`")
    directory = path if path.is_dir() else path.parent
    if (directory / "spec.yaml").exists() and (path.is_dir() or path.name == "checkpoint.pt"):
        with _opened_run(directory) as opened:
            yield opened
    elif path.is_dir() and not is_sharded(path):
        yield _opened_history(path)
    else:
        checkpoint = read_checkpoint(path)
        yield _Opened(checkpoint, checkpoint.state, checkpoint.state, about=(_layout(checkpoint),))


def _layout(checkpoint: Checkpoint) -> str:
    count = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    where = f" at {'/'.join(map(str, checkpoint.where))}" if checkpoint.where else ""
    kind = "torch file" if checkpoint.metadata is None else "safetensors"
    return f"{kind}, {len(checkpoint.tensors)} tensors with {count:,} numbers{where}"


def _opened_history(directory: Path) -> _Opened:
    found = checkpoint_history(directory)
    moments = []
    for name, path in found:
        checkpoint = read_checkpoint(path)
        moments.append(_moment(name, checkpoint))
        if len(moments) == 1:
            initial = checkpoint.state
    about = f"{len(found)} checkpoints, from {found[0][0]} to {found[-1][0]}, which is judged"
    start = initial if len(found) > 1 and _alike(initial, checkpoint.state) else None
    return _Opened(
        checkpoint, checkpoint.state, checkpoint.state, None, None, start, tuple(moments),
        (about, _layout(checkpoint)),
    )  # fmt: skip


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return {name: _shape(value) for name, value in one.items()} == {
        name: _shape(value) for name, value in other.items()
    }


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _moment(name: str, checkpoint: Checkpoint) -> Moment:
    spectra = weight_spectra(checkpoint.state)
    return Moment(
        name,
        {layer: one.largest for layer, one in spectra.items()},
        {layer: one.smallest for layer, one in spectra.items()},
        {},
    )


@contextlib.contextmanager
def _opened_run(path: Path) -> Iterator[_Opened]:
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
        yield _Opened(
            checkpoint, checkpoint.state, checkpoint.state, run=path.name, moments=_recorded(directory),
            about=(about,),
        )  # fmt: skip
        return
    opened = open_run(path)
    checkpoint = read_checkpoint(directory.checkpoint)
    run, inputs = opened.run, opened.inputs[:_SAMPLES]
    data = f" of {run.data.name}" if run.data else ""
    about_run = (
        f"run: {run.label} on {run.stream.name}{data}, seed {run.seed}, "
        f"after {opened.finished} of {run.tasks} tasks",
        f"inputs: {len(inputs)} of its last task",
    )
    with opened.evaluated() as network:
        yield _Opened(
            checkpoint, network, opened.network, inputs, run.id, None, _recorded(directory), about_run
        )


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


def _inputs(opened: _Opened, given: Path | None) -> Tensor | None:
    if given is None:
        return opened.inputs
    inputs = read_tensor(given)
    model = opened.model
    weights = list(model.parameters()) if isinstance(model, nn.Module) else opened.checkpoint.tensors.values()
    kinds = [weight.dtype for weight in weights if weight.is_floating_point()]
    return inputs.to(kinds[0]) if inputs.is_floating_point() and kinds else inputs


def _inspected(opened: _Opened, given: Path | None) -> Inspection:
    return inspect_model(opened.model, _inputs(opened, given), initial=opened.initial)


def _as_text(file: Path, opened: _Opened, found: Inspection) -> str:
    parts = [str(file), *opened.about, "", _weights(found)]
    if found.activity is not None:
        parts += ["", str(found.activity)]
    if opened.moments:
        parts += ["", _history(opened.moments)]
    if found.assumption:
        parts += ["", found.assumption]
    return "\n".join([*parts, "", *_findings(found), _verdict(found)])


def _findings(found: Inspection) -> list[str]:
    """One paragraph for all findings of a severity that ask for the same."""
    groups: dict[tuple[str, str], list[str]] = {}
    for finding in found.findings:
        sentence = f"{finding.where}: {finding.what}"
        groups.setdefault((finding.severity, finding.remedy), []).append(sentence)
    lines = []
    for (severity, remedy), all_said in groups.items():
        more = len(all_said) - _SHOWN
        rest = [f"and {more} more like these; --json has them all"] if more > 0 else []
        lines.append(severity)
        for said in [*all_said[:_SHOWN], *rest]:
            lines += textwrap.wrap(said, _WIDTH, initial_indent="  ", subsequent_indent="    ")
        lines += textwrap.wrap(remedy, _WIDTH, initial_indent="  -> ", subsequent_indent="     ")
        lines.append("")
    return lines


def _weights(found: Inspection) -> str:
    header = ("layer", "shape", "min", "mean", "max", "condition", "eff. rank")
    rows = [
        (
            _short(name, 24),
            "x".join(map(str, one.shape)),
            *map(format_number, (one.smallest, one.mean, one.largest, one.condition_number)),
            format_number(round(one.effective_rank, 1)),
        )
        for name, one in found.spectra.items()
    ]
    return text_table(header, rows)


def _history(moments: tuple[Moment, ...]) -> str:
    """Ten moments at most: the first, the last, and some between."""
    step = max(1, math.ceil((len(moments) - 1) / 9))
    chosen = [*moments[:-1:step], moments[-1]]
    rows = [
        (
            _short(moment.name, 24),
            format_number(min(moment.smallest.values())),
            format_number(max(moment.largest.values())),
            _short(max(moment.largest, key=lambda name: moment.largest[name]), 24),
            f"{max(moment.dead.values()):.0%}" if moment.dead else "",
        )
        for moment in chosen
    ]
    return text_table(("checkpoint", "min", "max", "in layer", "most dead"), rows)


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else f"...{name[3 - width :]}"


def _verdict(found: Inspection) -> str:
    if found.broken:
        return "verdict: critical. Nothing repairs lost numbers: restore an earlier checkpoint."
    if not found.healthy:
        return "verdict: critical. `isoplast repair` repairs it once, AdamO prevents a relapse."
    warnings = sum(finding.severity == "warning" for finding in found.findings)
    said = f", with {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    unseen = "" if found.activity is not None else "; dead units show with --inputs only"
    return f"verdict: healthy{said}{unseen}"


def _as_json(file: Path, found: Inspection, moments: tuple[Moment, ...]) -> Any:
    activity = {} if found.activity is None else found.activity
    return strict_json(
        {
            "file": str(file),
            "healthy": found.healthy,
            "assumption": found.assumption,
            "findings": [vars(finding) for finding in found.findings],
            "weights": {name: layer.as_dict() for name, layer in found.spectra.items()},
            "activity": {name: layer.as_dict() for name, layer in activity.items()},
            "history": [vars(moment) for moment in moments],
        }
    )
