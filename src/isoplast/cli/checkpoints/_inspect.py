"""`isoplast inspect` and `isoplast repair`: a look into a checkpoint, and its repair."""

from __future__ import annotations

import contextlib
import json as json_format
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast._core.files import write_whole
from isoplast.cli.checkpoints._inspection_text import as_json, as_text, history
from isoplast.cli.checkpoints._opened import Opened, Subject, opened
from isoplast.diagnostics import Inspection, Repair, repair_
from isoplast.diagnostics import inspect as inspect_model
from isoplast.model import check_target, write_checkpoint
from isoplast.study import strict_json

_File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
# Short metavariables: the line of usage must fit into 80 columns.
_Inputs = Annotated[Path | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]
_Page = Annotated[Path | None, tyro.conf.arg(metavar="P", help_behavior_hint="")]
_Name = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]
_Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
_Layers = Annotated[Literal["critical", "all"], tyro.conf.arg(metavar="WHICH")]
_Out = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="OUT", help_behavior_hint="(required)")]


def inspect(
    file: _File,
    *,
    inputs: _Inputs = None,
    only: _Name = None,
    json: _Flag = False,
    html: _Page = None,
) -> int:
    """Look into a checkpoint for what keeps a network from learning.

    Nothing in the file is run: objects in a pickle are passed over.

    Exit status: 0 nothing critical, 1 critical, 2 wrong input.

    Args:
        file: A .safetensors or torch file, a run of isoplast, or a directory of checkpoints, which shows
            their history.
        inputs: Inputs that show dead units: .npy, .npz, .pt or .safetensors. A run of isoplast brings its
            own, any other network must be a plain chain of linear layers.
        only: The one network to look at, where a file holds several; else all are judged.
        json: Print the numbers as JSON.
        html: Write a page with plots there.
    """
    with _waiting(f"reading {file}"), opened(file, only) as what:
        found = [(one, _inspected(what, one, inputs)) for one in what.subjects]
    if html is not None:
        _write_page(html, file, what, found)
    if json:
        print(json_format.dumps(_as_json(file, what, found), indent=1, allow_nan=False))
    else:
        _print(file, what, found)
        if html is not None:
            print(f"page: {html}")
    return 1 if any(one.critical for _, one in found) else 0


_Found = list[tuple[Subject, Inspection]]


def _inspected(what: Opened, subject: Subject, inputs: Path | None) -> Inspection:
    return inspect_model(subject.model, what.inputs_of(subject, inputs), initial=subject.initial)


def _print(file: Path, what: Opened, found: _Found) -> None:
    print("\n".join([str(file), *what.about, ""]))
    print("\n\n".join(as_text(subject, one, len(found) > 1) for subject, one in found))
    if what.moments:
        print(f"\n{history(what.moments)}")


def _as_json(file: Path, what: Opened, found: _Found) -> dict[str, Any]:
    shared = {"file": str(file), "history": strict_json([vars(moment) for moment in what.moments])}
    if len(found) == 1:
        return {**shared, **as_json(*found[0])}
    networks = {subject.name: as_json(subject, one) for subject, one in found}
    critical, healthy = any(one.critical for _, one in found), all(one.healthy for _, one in found)
    return {**shared, "critical": critical, "healthy": healthy, "networks": networks}


def _write_page(html: Path, file: Path, what: Opened, found: _Found) -> None:
    """The page of the network with the worst findings; the others are named on it."""
    from isoplast.report import inspection_page  # brings plotly

    subject, worst = min(found, key=lambda item: (not item[1].critical, item[1].healthy))
    others = [
        f"{one.name}: {'critical' if result.critical else 'not critical'}, not on this page"
        for one, result in found
        if one is not subject
    ]
    page = inspection_page(str(file), (*what.about, *others), worst, what.moments)
    try:
        write_whole(html, page.encode())
    except OSError as error:  # no finding: status 1 would say so
        raise IsoplastError(f"{html} cannot be written: {error.strerror or error}") from error


def repair(
    file: _File,
    *,
    out: _Out,
    inputs: _Inputs = None,
    only: _Name = None,
    layers: _Layers = "critical",
    forget: _Flag = False,
    keep_optimizer: _Flag = False,
) -> int:
    """Put critical layers back onto isometries, and write a new file.

    These layers get the nearest weights with all singular values 1.

    Biases that keep units dead for good are set to zero.

    Args:
        file: The checkpoint, or the directory of a run.
        out: The new file; it must not exist yet. Its name says the format: .safetensors or .pt.
        inputs: As for `isoplast inspect`.
        only: The one network to repair, where a file holds several; else all.
        layers: Those where `isoplast inspect` finds something critical, or all.
        forget: What the network knows may be lost. Without this a repair that changes what it computes is
            refused, with the size of that change.
        keep_optimizer: Keep the optimizer's state, which belongs to the old weights; else it is emptied, so
            that the optimizer starts anew.
    """
    check_target(out)
    with _waiting(f"reading {file}"), opened(file, only) as what:
        if len(what.moments) > 1 and what.run is None:
            raise IsoplastError(f"{file} holds several checkpoints: repair one of them")
        repaired = [(one, _repaired(what, one, inputs, layers, forget)) for one in what.subjects]
    for subject, one in repaired:
        print(f"== {subject.name}\n{one}" if len(repaired) > 1 else str(one))
    if not any(one.layers for _, one in repaired):
        print("nothing is written")
        return 0
    for said in write_checkpoint(what.checkpoint, out, keep_optimizer=keep_optimizer):
        print(f"left out: {said}")
    print(f"written: {out}")
    return 0


def _repaired(what: Opened, subject: Subject, inputs: Path | None, layers: str, forget: bool) -> Repair:
    found = repair_(subject.trained, what.inputs_of(subject, inputs), layers=layers, forget=forget)
    if found.layers and isinstance(subject.trained, nn.Module):
        for name, value in subject.trained.state_dict().items():
            if isinstance(value, Tensor):
                what.checkpoint.state[name].copy_(value)
    return found


@contextlib.contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Show on a terminal that work goes on."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{what} and measuring its weights"):
        yield
