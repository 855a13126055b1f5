"""Text as bytes: the files of a folder, each a part of the data set."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import sys
import sysconfig
from pathlib import Path

import numpy as np
import torch

from isoplast._core.checks import at_least
from isoplast._core.errors import IsoplastError
from isoplast.data._dataset import Dataset
from isoplast.data._files import first_there, places, read_bytes
from isoplast.data._images import Bytes
from isoplast.data._spec import DataSpec, register_data

BYTES = 256
_HELD_OUT = 10  # the last tenth of every file is its test split


@register_data
@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(DataSpec):
    """Sequences of bytes, each with the bytes that follow, from text files.

    Every file, in the order of the names, is one of the `parts`: cut into sequences of `length` bytes which
    do not overlap. The last tenth of each file is the test split.

    Args:
        path: a folder of .txt files, or one file: as it is, or in the folder that `ISOPLAST_DATA` names.
        length: bytes of a sequence, >= 1.
        python_bytes: adds so many bytes of the installed Python's standard library as a last part named
            "python", >= 1; None adds none: of the modules that Python releases, without files that a build or
            a distribution of it adds. It is another text with every version, which the note names.

    Example:
        >>> load_data("text", path="austen").parts[0]  # doctest: +SKIP
        ('emma', 12412)
    """

    name = "text"

    path: str
    length: int = 64
    python_bytes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "data text", 1, "length", "python_bytes")
        if self.hold_out is not None:
            raise IsoplastError(
                "hold_out of data text: the last tenth of every file is held out, leave it out"
            )

    def read(self, split: str, root: Path | None) -> Dataset:
        """The sequences of a split.

        Raises:
            IsoplastError: there is no such folder or file, it holds no text, or a text is too short.
        """
        documents = self._documents(root)
        note = Path(self.path).name
        if self.python_bytes is not None:
            documents.append(("python", _standard_library(self.python_bytes)))
            note += f", then Python {platform.python_version()}'s standard library without generated files"
        pieces = [self._sequences(name, content, split) for name, content in documents]
        text = np.concatenate(pieces).astype(np.int64)
        found = hashlib.sha256(text.tobytes()).hexdigest()
        return Dataset(
            inputs=torch.from_numpy(text[:, :-1].copy()),
            targets=torch.from_numpy(text[:, 1:].copy()),
            classes=BYTES,
            name=self.name,
            note=note,
            fingerprint=found,
            parts=tuple((name, len(one)) for (name, _), one in zip(documents, pieces, strict=True)),
        )

    def _documents(self, root: Path | None) -> list[tuple[str, bytes]]:
        path = Path(self.path).expanduser()
        found = first_there(folder / path for folder in [root or Path(), Path(), *places(root)])
        if found is None:
            raise IsoplastError(
                f"data text: {self.path!r} is not there: name a folder of .txt files, or one file"
            )
        files = sorted(found.glob("*.txt"), key=lambda file: file.name) if found.is_dir() else [found]
        if not files:
            raise IsoplastError(f"data text: {found} holds no .txt file")
        return [(file.stem, read_bytes(file, "give files that can be read")) for file in files]

    def _sequences(self, name: str, content: bytes, split: str) -> Bytes:
        values = np.frombuffer(content, dtype=np.uint8)
        border = len(values) - len(values) // _HELD_OUT
        values = values[:border] if split == "train" else values[border:]
        count = (len(values) - 1) // self.length
        if count < 1:
            raise IsoplastError(
                f"data text: {name} has {len(content):,} bytes, too few for {split} sequences of "
                f"{self.length}"
            )
        starts = np.arange(count)[:, None] * self.length + np.arange(self.length + 1)
        found: Bytes = values[starts]
        return found


def _standard_library(size: int) -> bytes:
    """The first bytes of the modules at the top of the standard library, in the order of their names.

    Only of those whose names Python lists, the same on all platforms: `_sysconfigdata__...` is made by the
    build, `sitecustomize` by a distribution.
    """
    text = bytearray()
    folder = Path(sysconfig.get_paths()["stdlib"])
    for file in (folder / f"{name}.py" for name in sorted(sys.stdlib_module_names)):
        text += file.read_bytes().replace(b"\r\n", b"\n") if file.is_file() else b""
        if len(text) >= size:
            return bytes(text[:size])
    raise IsoplastError(f"python_bytes of data text is {size}: the standard library has {len(text):,}")
