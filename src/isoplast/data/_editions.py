"""Editions of a data set: the official one, and those that a manifest declares.

A manifest is a file `isoplast-data.json` in any of the folders that are searched:

    {"editions": [{
        "data": "cifar10",
        "edition": "CIFAR-10 (JPEG subset)",
        "files": {"cifar-10-subset.tar.xz": {"bytes": 28466112, "sha256": "cda9ef27..."}}
    }]}

It declares, by name, size and hash, files in an official layout whose content is another one: a subset, or
other images. `edition` is what results call them. Files inside a .gz count unpacked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoplast._core.errors import IsoplastError
from isoplast._core.files import read_json
from isoplast._core.text import shown
from isoplast.data._files import KnownFile, lies_there

MANIFEST = "isoplast-data.json"


@dataclass(frozen=True)
class Edition:
    """One known content of a data set.

    Args:
        note: its name in results.
        files: what is known of its files, by name.
    """

    note: str
    files: Mapping[str, KnownFile]

    @classmethod
    def of(cls, note: str, *files: KnownFile) -> Edition:
        """The edition of these files."""
        return cls(note, {known.name: known for known in files})


def candidates(name: str, editions: Sequence[Edition]) -> list[KnownFile]:
    """What a file of that name may be, in the order of the editions."""
    return [edition.files[name] for edition in editions if name in edition.files]


def declared(data: str, folders: Sequence[Path]) -> list[Edition]:
    """The editions of a data set that the manifests in these folders declare.

    Raises:
        IsoplastError: a manifest is damaged.
    """
    found = []
    for path in (folder / MANIFEST for folder in folders):
        if lies_there(path):
            found += [edition for name, edition in _read(path) if name == data]
    return found


def _read(path: Path) -> list[tuple[str, Edition]]:
    contents = read_json(path)
    listed = contents.get("editions") if isinstance(contents, dict) else None
    if not isinstance(listed, list):
        raise IsoplastError(f'{path}: write {{"editions": [...]}}, a list of editions')
    return [_edition(path, entry) for entry in listed]


def _edition(path: Path, entry: Any) -> tuple[str, Edition]:
    keys = ("data", "edition", "files")
    if not isinstance(entry, dict) or set(entry) != set(keys):
        raise IsoplastError(f"{path}: an edition has the entries {', '.join(keys)}, not {shown(entry)}")
    name, note, files = (entry[key] for key in keys)
    if not (isinstance(name, str) and isinstance(note, str) and isinstance(files, dict) and note):
        raise IsoplastError(f"{path}: data and edition are words, files a mapping, not {shown(entry)}")
    return name, Edition.of(note, *(_known(path, file, said) for file, said in files.items()))


def _known(path: Path, name: str, said: Any) -> KnownFile:
    size, found = (said.get("bytes"), said.get("sha256")) if isinstance(said, dict) else (None, None)
    if type(size) is not int or not isinstance(found, str) or not re.fullmatch(r"[0-9a-f]{64}", found):
        raise IsoplastError(
            f'{path}: write {shown(name)} as {{"bytes": 123, "sha256": "64 hexadecimal digits"}}, '
            f"not {shown(said)}"
        )
    return KnownFile(name, size, f"sha256:{found}")
