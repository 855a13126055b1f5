"""Checkpoints as others wrote them: opened without running any code, and written back in the same layout."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoplast._core.arrays import SUFFIXES as ARRAYS
from isoplast._core.arrays import read_arrays, read_safetensors, safetensors
from isoplast._core.errors import IsoplastError
from isoplast._core.files import read_json, write_whole
from isoplast.model._torch_file import REMEDY, read_torch_file

_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# What trainers write beside the weights.
_BESIDE = ("optimizer", "scheduler", "rng_state", "training_args", "scaler", "random_states")
_MODEL_WORDS = ("model", "state_dict", "model_state_dict", "module", "net", "network")
_DEPTH = 6  # of nested mappings: no trainer nests deeper


@dataclass(frozen=True)
class Checkpoint:
    """One file of weights, as it was read.

    Attributes:
        path: the file, or the directory of a network in several files.
        state: the mapping of parameter names to tensors in it; editing these tensors edits `contents`.
        where: the keys that lead to it, such as ("trainer", "model"); empty where it is the whole file.
        contents: everything in the file.
        metadata: of a safetensors file, else None.
    """

    path: Path
    state: dict[str, Any]
    where: tuple[str, ...]
    contents: Any
    metadata: dict[str, str] | None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of `state` by name."""
        return {name: value for name, value in self.state.items() if isinstance(value, Tensor)}


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a safetensors file, a torch file, or a directory that holds one network in several files.

    Nothing in a file is run: a pickle that holds Python objects is refused. Sizes are checked before anything
    is allocated, and every number against the checksum of the file. Among nested mappings the one with the
    most tensors is taken for the network's.

    Args:
        path: the file.

    Returns:
        The checkpoint, all tensors on the CPU.

    Raises:
        IsoplastError: there is none, it is damaged, holds code, or nothing that looks like weights; one line.
    """
    if path.is_dir():
        return _read_shards(path)
    if not path.is_file():
        raise IsoplastError(f"there is no file {path}")
    if _is_safetensors(path):
        state, metadata = read_safetensors(path)
        _check(path, state)
        return Checkpoint(path, state, (), state, metadata)
    contents = read_torch_file(path)
    where, state = _network(path, contents)
    return Checkpoint(path, state, where, contents, None)


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


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint to a new file, in the format and layout that it came in.

    The file is written aside, forced to disk and renamed: it is whole or absent.

    Raises:
        IsoplastError: the file exists, or the checkpoint came from several files.
        OSError: it cannot be written.
    """
    if path.exists():
        raise IsoplastError(f"{path} exists: choose another name, nothing is overwritten")
    if checkpoint.path.is_dir():
        raise IsoplastError(f"{checkpoint.path} is a network in several files: save it as one file first")
    if checkpoint.metadata is None:
        buffer = io.BytesIO()
        try:
            torch.save(checkpoint.contents, buffer)
        except RecursionError:
            raise IsoplastError(f"{checkpoint.path} nests its values too deep to be written again") from None
        contents = buffer.getvalue()
    else:
        contents = safetensors().torch.save(checkpoint.state, checkpoint.metadata or None)
    write_whole(path, contents)


def checkpoint_history(directory: Path) -> list[tuple[str, Path]]:
    """The checkpoints of a directory, the oldest first, with a name for each.

    Files count, or, where there are none, subdirectories that hold one network each. They are sorted by the
    last number in their names where all have one of their own, else by their time of writing.

    Raises:
        IsoplastError: there is no checkpoint in it.
    """
    found = {path.stem: path for path in _files(directory)}
    if not found:
        inner = {sub.name: _files(sub) for sub in sorted(directory.iterdir()) if sub.is_dir()}
        found = {name: sub[0] if len(sub) == 1 else sub[0].parent for name, sub in inner.items() if sub}
    if not found:
        raise IsoplastError(
            f"{directory} holds no checkpoint: none of its files ends in {', '.join(_SUFFIXES)}"
        )
    steps = {name: re.findall(r"\d+", name)[-1:] for name in found}
    numbers = [int(step[0]) for step in steps.values() if step]
    if len(set(numbers)) == len(found):
        return sorted(found.items(), key=lambda item: int(steps[item[0]][0]))
    return sorted(found.items(), key=lambda item: item[1].stat().st_mtime)


def is_sharded(directory: Path) -> bool:
    """Whether a directory holds one network in several files, with an index that says so."""
    return any(directory.glob("*.index.json")) and not (directory / "index.json").exists()


def _files(directory: Path) -> list[Path]:
    return sorted(
        path
        for path in directory.iterdir()
        if path.suffix in _SUFFIXES and path.is_file() and not path.name.startswith(_BESIDE)
    )


def _is_safetensors(path: Path) -> bool:
    """An eight-byte length of the header, then the header, which is JSON."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            first = file.read(1)
    except OSError as error:
        raise IsoplastError(f"{path} cannot be read: {error.strerror}") from None
    return path.suffix == ".safetensors" or (first == b"{" and length <= path.stat().st_size)


def _read_shards(directory: Path) -> Checkpoint:
    found = sorted(directory.glob("*.index.json"))
    if not found:
        raise IsoplastError(f"{directory} is a directory: name one of the checkpoints in it")
    index = read_json(found[0])
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise IsoplastError(f"{found[0]} is damaged: it names no files of weights")
    names = sorted(set(files.values()))
    state: dict[str, Any] = {}
    for name in names:
        # An index may name any path; only files beside it belong to it.
        if Path(name).name != name or not (directory / name).is_file():
            raise IsoplastError(f"{found[0]} names {name!r}, which is no file beside it")
        state |= read_checkpoint(directory / name).state
    return Checkpoint(directory, state, (), state, None)


def _network(path: Path, contents: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Where the network's mapping lies in a file, and the mapping."""
    ranked = [
        (_rank(where, mapping), -place, where) for place, (where, mapping) in enumerate(_mappings(contents))
    ]
    if not ranked:
        raise IsoplastError(f"{path} holds {type(contents).__name__}, no weights by name: {REMEDY}")
    where = max(ranked)[2]
    state = contents
    for key in where:
        state = state[key]
    named = {key: value for key, value in state.items() if isinstance(key, str)}
    _check(path, named)
    return where, named


def _mappings(contents: Any) -> Iterator[tuple[tuple[Any, ...], dict[Any, Any]]]:
    """All mappings inside mappings with the keys that lead to them, each once, the outermost first."""
    waiting: deque[tuple[tuple[Any, ...], Any]] = deque([((), contents)])
    seen: set[int] = set()
    while waiting:
        where, value = waiting.popleft()
        if isinstance(value, dict) and id(value) not in seen and len(where) <= _DEPTH:
            seen.add(id(value))
            yield where, value
            waiting.extend(((*where, key), item) for key, item in value.items() if isinstance(item, dict))


def _rank(where: tuple[Any, ...], mapping: Mapping[Any, Any]) -> tuple[int, bool]:
    """The number of tensors; among equals (an average of the weights, say) the one called the model."""
    count = sum(isinstance(key, str) and isinstance(item, Tensor) for key, item in mapping.items())
    return count, bool(where) and where[-1] in _MODEL_WORDS


def _check(path: Path, state: Mapping[str, Any]) -> None:
    matrices = {name: value for name, value in state.items() if isinstance(value, Tensor) and value.ndim > 1}
    for name, matrix in matrices.items():
        if matrix.is_meta or matrix.layout != torch.strided:
            kind = "no numbers (device meta)" if matrix.is_meta else f"its numbers as {matrix.layout}"
            raise IsoplastError(f"{path}: {name} holds {kind}, which cannot be measured: {REMEDY}")
    if not any(matrix.is_floating_point() for matrix in matrices.values()):
        names = ", ".join(list(state)[:4]) or "nothing"
        raise IsoplastError(f"{path} holds no weight matrix (it holds {names}): {REMEDY}")
