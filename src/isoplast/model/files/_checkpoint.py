"""Checkpoints as others wrote them, opened without running any code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoplast._core.arrays import SUFFIXES as ARRAYS
from isoplast._core.arrays import read_arrays, read_safetensors
from isoplast._core.errors import IsoplastError
from isoplast._core.files import read_json
from isoplast.model.files._history import files_of_weights
from isoplast.model.files._networks import Network, find_networks
from isoplast.model.files._stand_in import StandIn, entries_of
from isoplast.model.files._torch_file import REMEDY, NoWeights, read_torch_file


@dataclass(frozen=True)
class Checkpoint:
    """A file with networks, as it was read.

    Attributes:
        path: the file, or the directory of a network in several files.
        networks: those in it, the largest first, running averages last.
        contents: everything in the file.
        metadata: of a safetensors file, else None.
    """

    path: Path
    networks: tuple[Network, ...]
    contents: Any
    metadata: dict[str, str] | None

    @property
    def state(self) -> dict[str, Any]:
        """Names and values of the first network; editing these tensors edits `contents`."""
        return self.networks[0].state

    @property
    def where(self) -> tuple[Any, ...]:
        """The keys that lead to the first network, such as ("trainer", "model")."""
        return self.networks[0].where

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the first network by name."""
        return self.networks[0].tensors


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a safetensors file, a torch file, an archive of torch files, or a directory with one network.

    Nothing in a file is run: Python objects in a pickle become stand-ins that keep what is said of them.
    Sizes are checked before anything is allocated, and every number against the checksum of the file.

    Args:
        path: the file; or a directory that holds a network in several files, with or without an index.

    Returns:
        The checkpoint, all tensors on the CPU.

    Raises:
        NoWeights: it is sound, and holds no weights that can be measured; one line.
        IsoplastError: there is no such file, or it is damaged; one line.
    """
    if path.is_dir():
        return _read_directory(path)
    if not path.is_file():
        raise IsoplastError(f"there is no file {path}")
    contents, metadata = _read_file(path)
    return _checkpoint(path, contents, metadata)


def _read_file(path: Path) -> tuple[Any, dict[str, str] | None]:
    if _is_safetensors(path):
        return read_safetensors(path)
    return read_torch_file(path), None


def _checkpoint(path: Path, contents: Any, metadata: dict[str, str] | None) -> Checkpoint:
    networks = find_networks(contents)
    if not any(_measurable(network) for network in networks):
        raise NoWeights(_nothing(path, contents, networks))
    return Checkpoint(path, tuple(networks), contents, metadata)


def _measurable(network: Network) -> bool:
    return any(
        isinstance(value, Tensor) and value.ndim > 1 and value.is_floating_point()
        for value in network.measured.values()
    )


def _nothing(path: Path, contents: Any, networks: list[Network]) -> str:
    """Why a sound file has nothing to measure."""
    hidden = {name: reason for network in networks for name, reason in network.unread.items()}
    if hidden:
        name, reason = next(iter(hidden.items()))
        more = f" and {len(hidden) - 1} more" if len(hidden) > 1 else ""
        return f"{path} holds no weight that can be measured: {name} is {reason}{more}"
    entries = entries_of(contents)
    if not entries and not isinstance(contents, dict):
        kind = contents.name if isinstance(contents, StandIn) else type(contents).__name__
        return f"{path} holds {kind}, no weights by name: {REMEDY}"
    names = ", ".join(map(str, list(entries or ())[:4])) or "nothing"
    return f"{path} holds no weight matrix (it holds {names}): {REMEDY}"


def read_tensor(path: Path) -> Tensor:
    """Open a file that holds one batch of inputs: .npy, .npz, .safetensors or a torch file.

    Args:
        path: the file; where it holds several tensors the one called "inputs" counts.

    Returns:
        The tensor, on the CPU; of double precision made single.

    Raises:
        IsoplastError: there is none, it is damaged, holds code, or no such tensor; one line.
    """
    if not path.is_file():
        raise IsoplastError(f"there is no file {path}")
    found: Any = read_arrays(path) if path.suffix in ARRAYS else _read_any(path)
    if isinstance(found, dict):
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        found = next(iter(tensors.values())) if len(tensors) == 1 else tensors.get("inputs")
    if not isinstance(found, Tensor) or found.ndim < 2 or found.is_meta or found.layout != torch.strided:
        raise IsoplastError(f'{path} holds no batch of inputs: save one tensor (n, ...), or name it "inputs"')
    return found.float() if found.dtype == torch.float64 else found


def _read_any(path: Path) -> Any:
    return read_safetensors(path)[0] if _is_safetensors(path) else read_torch_file(path)


def _is_safetensors(path: Path) -> bool:
    """An eight-byte length of the header, then the header, which is JSON."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            first = file.read(1)
    except OSError as error:
        raise IsoplastError(f"{path} cannot be read: {error.strerror}") from None
    return path.suffix == ".safetensors" or (first == b"{" and length <= path.stat().st_size)


def _read_directory(directory: Path) -> Checkpoint:
    """A network in several files: those that an index names, or all that hold weights (DeepSpeed, say)."""
    found = sorted(directory.glob("*.index.json"))
    if found:
        return _read_shards(directory, found[0])
    files = files_of_weights(directory)
    if not files or not any("model_states" in path.name for path in files):
        raise IsoplastError(f"{directory} is a directory: name one of the checkpoints in it")
    contents = {path.name: _read_file(path)[0] for path in files}
    return _checkpoint(directory, contents, None)


def _read_shards(directory: Path, place: Path) -> Checkpoint:
    index = read_json(place)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise IsoplastError(f"{place} is damaged: it names no files of weights")
    state: dict[str, Any] = {}
    for name in sorted(set(files.values())):
        # An index may name any path; only files beside it belong to it.
        if Path(name).name != name or not (directory / name).is_file():
            raise IsoplastError(f"{place} names {name!r}, which is no file beside it")
        part = _read_file(directory / name)[0]  # a shard may hold vectors alone
        state |= part if isinstance(part, dict) else {}
    return _checkpoint(directory, state, None)
