"""Files of torch.save, read without running anything and without taking more memory than they explain.

torch.load(weights_only=True) runs no code either, but believes what a file says of itself: it compares no
checksums, so that one flipped bit is another number, allocates storages of any size, and hashes keys that
take for ever.
"""

from __future__ import annotations

import io
import os
import sys
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import torch
from torch.storage import TypedStorage

from isoplast._core.archives import ZipArchive
from isoplast._core.errors import IsoplastError
from isoplast.model.files._plain_pickle import read_pickle
from isoplast.model.files._stand_in import Name
from isoplast.model.files._torch_values import Foreign, StorageType, storage_of_bytes, typed, value_by_name


class NoWeights(IsoplastError):
    """A sound file without a network in it."""


REMEDY = "save model.state_dict() by torch.save, or as .safetensors"

_MAGIC = 0x1950A86A20F9469CFC6C  # of files in the format before torch 1.6


def read_torch_file(path: Path) -> Any:
    """What torch.save put into a file, its tensors on the CPU.

    Raises:
        IsoplastError: it is no such file, is damaged, or holds Python objects; one line.
    """
    with path.open("rb") as file:
        magic = file.read(2)
        file.seek(0)
        if not magic.startswith((b"PK", b"\x80")):
            raise NoWeights(f"{path} is no checkpoint: neither a torch nor a safetensors file")
        try:
            return _read_zip(path) if magic == b"PK" else _read_old(file)
        except Foreign as error:
            raise IsoplastError(
                f"{path} holds the Python object {error}, which isoplast does not load: {REMEDY}"
            ) from None
        except IsoplastError as error:
            raise type(error)(f"{path} {error}") from None
        except (
            Exception
        ) as error:  # damaged bytes let an interpreter of pickles, and torch, raise nearly anything
            reason = str(error).partition("\n")[0] or "it ends too early"
            raise IsoplastError(f"{path} is truncated or damaged: {reason}") from None


def _read_zip(source: Path | bytes) -> Any:
    try:
        archive = ZipArchive(source)
    except IsoplastError as error:
        raise IsoplastError(f"is {error}") from None
    with archive:
        return _read_archive(archive)


def _read_archive(archive: ZipArchive) -> Any:
    pickles = [name for name in archive.sizes if name.endswith("/data.pkl") and name.count("/") == 1]
    if not pickles:
        return _read_members(archive)
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in archive.sizes:
        raise IsoplastError(f"is a TorchScript program, which would have to be run: {REMEDY}")
    storages = _ZipStorages(archive, folder)
    contents = read_pickle(io.BytesIO(archive.read(pickles[0])), storages)
    archive.verify()
    return contents


def _read_members(archive: ZipArchive) -> dict[str, Any]:
    """The torch files in an archive by name: so Stable-Baselines3 saves agents."""
    names = [name for name in archive.sizes if name.endswith((".pt", ".pth")) and "optimizer" not in name]
    found = {}
    for name in names:
        content = archive.read(name)
        found[name] = _read_zip(content) if content[:2] == b"PK" else _read_old(io.BytesIO(content))
    if not found:
        raise NoWeights(f"is a zip archive without a torch file in it: {REMEDY}")
    archive.verify()
    return found


class _ZipStorages:
    """The storages in an archive: each a member of exactly its size."""

    def __init__(self, archive: ZipArchive, folder: str) -> None:
        self.archive, self.folder = archive, folder
        self.made: dict[str, torch.UntypedStorage] = {}
        order = f"{folder}byteorder"
        self.foreign = order in archive.sizes and archive.read(order) != sys.byteorder.encode()

    def __call__(self, word: str, kind: StorageType, key: str, location: str, count: int) -> TypedStorage:
        member = f"{self.folder}data/{_text(key)}"
        if member not in self.archive.sizes or not _fits(count, kind, self.archive.sizes[member]):
            raise IsoplastError(f"is truncated or damaged: the size of its storage {key} is wrong")
        if key not in self.made:
            self.made[key] = storage_of_bytes(self.archive.read(member))
            if self.foreign:
                self.made[key].byteswap(kind.dtype)  # type: ignore[no-untyped-call]
        return typed(self.made[key], kind.dtype)


def _text(key: Any) -> str:
    """The name of a storage: neither hashed nor shown before it is known to be text."""
    if type(key) is not str:
        raise IsoplastError("is damaged: the name of a storage is no text")
    return key


def _fits(count: Any, kind: Any, size: int) -> bool:
    return type(count) is int and isinstance(kind, StorageType) and 0 <= count * kind.dtype.itemsize <= size


def _read_old(file: IO[bytes]) -> Any:
    """The format before torch 1.6: pickles one after the other, then the storages."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    storages = _OldStorages(size)
    if read_pickle(file, storages) != _MAGIC:
        raise IsoplastError(f"is a pickle that torch.save did not write: {REMEDY}")
    for _ in ("version", "machine"):
        read_pickle(file, storages)
    start = file.tell()
    read_pickle(file, storages, _placeholder)  # only the storages: their numbers are not there yet
    storages.fill(file, read_pickle(file, storages))
    file.seek(start)
    return read_pickle(file, storages)


def _placeholder(name: str) -> Any:
    value = value_by_name(name)
    return (lambda *arguments: OrderedDict()) if callable(value) and not isinstance(value, Name) else value


class _OldStorages:
    """Storages that are named before their numbers come: together no larger than the file."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.made: dict[str, TypedStorage] = {}

    def __call__(
        self, word: str, kind: Any, key: str, location: str = "", count: int = 0, view: Any = None
    ) -> Any:
        if word == "module":
            return kind  # beside the object, where its source was
        if _text(key) not in self.made:
            if not _fits(count, kind, self.room):
                raise IsoplastError(f"is truncated or damaged: the size of its storage {key} is wrong")
            self.room -= count * kind.dtype.itemsize
            numbers = torch.empty(count * kind.dtype.itemsize, dtype=torch.uint8)
            self.made[key] = typed(numbers.untyped_storage(), kind.dtype)
        whole = self.made[key]
        if view is None:
            return whole
        _, start, length = view
        if type(start) is not int or type(length) is not int:
            raise IsoplastError(f"is damaged: a part of its storage {key} is wrong")
        if not _fits(start + length, kind, whole._untyped_storage.nbytes()) or start < 0 or length < 0:
            raise IsoplastError(f"is damaged: a part of its storage {key} is wrong")
        size = kind.dtype.itemsize
        return typed(whole._untyped_storage[start * size : (start + length) * size], kind.dtype)

    def fill(self, file: IO[bytes], keys: list[str]) -> None:
        """Read the numbers of all storages, in the order of these keys."""
        if type(keys) is not list or len(keys) != len(self.made):
            raise EOFError
        for key in keys:
            storage = self.made[_text(key)]
            count = int.from_bytes(file.read(8), "little")
            size = storage._untyped_storage.nbytes()
            if count * storage.dtype.itemsize != size:
                raise IsoplastError(f"is truncated or damaged: the size of its storage {key} is wrong")
            content = file.read(size)
            if len(content) != size:
                raise EOFError
            storage._untyped_storage.copy_(storage_of_bytes(content))
