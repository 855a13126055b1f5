"""Checkpoints written anew: in the format of the new file's name, and otherwise as they came."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoplast._core.arrays import safetensors
from isoplast._core.errors import IsoplastError
from isoplast._core.files import write_whole
from isoplast.model.files._checkpoint import Checkpoint
from isoplast.model.files._stand_in import Name, StandIn

_TORCH = (".pt", ".pth", ".bin", ".ckpt", ".tar")
_LEFT_OUT = object()


def check_target(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is computed for it.

    Raises:
        IsoplastError: it exists, its name says no format, or its folder is none that can be written to.
    """
    if path.exists():
        raise IsoplastError(f"{path} exists: choose another name, nothing is overwritten")
    if path.suffix not in (*_TORCH, ".safetensors"):
        raise IsoplastError(
            f"{path} says no format: let its name end in .safetensors, or in one of {', '.join(_TORCH)} "
            "for a file of torch.save"
        )
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "cannot be written to" if folder.is_dir() else "is no folder"
        raise IsoplastError(f"{folder} {reason}: name a file in another one")


def write_checkpoint(checkpoint: Checkpoint, path: Path, *, keep_optimizer: bool = False) -> list[str]:
    """Write a checkpoint to a new file, in the format that its name says.

    A torch file made from a torch file has everything that was in the old one. A safetensors file has the
    tensors alone; of several networks their names begin with where each lay. The file is written aside,
    forced to disk and renamed: it is whole or absent.

    Args:
        checkpoint: what was read, perhaps edited.
        path: the new file.
        keep_optimizer: whether the states of optimizers stay. Else they are emptied: an optimizer that loads
            one starts anew with the old settings.

    Returns:
        What is missing in the new file or was emptied, in words.

    Raises:
        IsoplastError: as `check_target`, or the values nest too deep.
        OSError: it cannot be written.
    """
    check_target(path)
    said: list[str] = []
    if path.suffix == ".safetensors":
        tensors = {
            name: value.detach().clone(memory_format=torch.contiguous_format)
            for name, value in _flat(checkpoint).items()
        }
        others = len(_entries(checkpoint)) - len(checkpoint.networks[0].state) if checkpoint.where else 0
        if checkpoint.where or others:
            said.append("everything but the networks: a safetensors file holds tensors alone")
        contents = safetensors().torch.save(tensors, checkpoint.metadata or {"format": "pt"})
    else:
        whole = _whole(checkpoint, said)
        cleaned = _cleaned(whole, (), said, keep_optimizer)
        buffer = io.BytesIO()
        try:
            torch.save(cleaned, buffer)
        except RecursionError:
            raise IsoplastError(f"{checkpoint.path} nests its values too deep to be written again") from None
        contents = buffer.getvalue()
    write_whole(path, contents)
    return said


def _entries(checkpoint: Checkpoint) -> Any:
    return checkpoint.contents if isinstance(checkpoint.contents, dict) else {}


def _flat(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of all networks by name."""
    if len(checkpoint.networks) == 1:
        return checkpoint.tensors
    return {
        ".".join([*map(str, network.where), name]): value
        for network in checkpoint.networks
        for name, value in network.tensors.items()
    }


def _whole(checkpoint: Checkpoint, said: list[str]) -> Any:
    """What goes into a torch file: the contents, or the networks where those are no torch file's."""
    of_files = (checkpoint.path.is_dir() and checkpoint.where) or checkpoint.path.suffix == ".zip"
    if isinstance(checkpoint.contents, dict | list | tuple) and not of_files:
        return checkpoint.contents
    said.append("everything but the tensors of the networks")
    if len(checkpoint.networks) == 1:
        return checkpoint.tensors
    return {network.name: network.tensors for network in checkpoint.networks}


def _cleaned(value: Any, where: tuple[Any, ...], said: list[str], keep: bool) -> Any:
    """A copy without stand-ins, and without the states of optimizers if they are not kept."""
    if isinstance(value, StandIn | Name):
        said.append(f"{'/'.join(map(str, where)) or 'an object'} (a {value.name})")
        return _LEFT_OUT
    if isinstance(value, dict):
        if not keep and value.keys() >= {"state", "param_groups"} and value["state"]:
            said.append(f"the state of {'/'.join(map(str, where)) or 'the optimizer'}, which is empty now")
            value = {**value, "state": {}}
        made = {key: _cleaned(one, (*where, key), said, keep) for key, one in value.items()}
        kept = {
            key: one for key, one in made.items() if one is not _LEFT_OUT and not isinstance(key, StandIn)
        }
        if not isinstance(value, OrderedDict):
            return kept
        ordered = OrderedDict(kept)
        if hasattr(value, "_metadata"):
            ordered._metadata = value._metadata  # type: ignore[attr-defined]
        return ordered
    if type(value) in (list, tuple):
        parts = [_cleaned(one, (*where, index), said, keep) for index, one in enumerate(value)]
        return type(value)(None if one is _LEFT_OUT else one for one in parts)
    return value
