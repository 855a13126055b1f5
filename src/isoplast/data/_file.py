"""Arrays of one's own, in a file."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np

from isoplast._core.arrays import read_arrays
from isoplast._core.errors import IsoplastError
from isoplast._core.files import write_whole
from isoplast.data._dataset import Dataset
from isoplast.data._files import first_there, places
from isoplast.data._spec import DataSpec, register_data

_SUFFIXES = (".npz", ".safetensors")


@register_data
@dataclasses.dataclass(frozen=True, kw_only=True)
class File(DataSpec):
    """The arrays `inputs` and `targets` of a .npz or .safetensors file, as :class:`Dataset` takes them.

    A test split, where a stream wants one, are the arrays `test_inputs` and `test_targets`.

    Args:
        path: the file: as it is, or in the folder that `ISOPLAST_DATA` names.
        classes: the number of classes; by default the largest target plus 1.

    Example:
        >>> np.savez("mine.npz", inputs=np.zeros((100, 8), np.float32), targets=np.arange(100) % 10)
        >>> load_data("file", path="mine.npz", samples=50).classes
        10
    """

    name = "file"

    path: str
    classes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if Path(self.path).suffix not in _SUFFIXES:
            raise IsoplastError(f"data file {self.path!r}: its name must end in {' or '.join(_SUFFIXES)}")

    def read(self, split: str, root: Path | None) -> Dataset:
        """The arrays of a split.

        Raises:
            IsoplastError: there is no such file, it is damaged, or holds no such arrays.
        """
        path = Path(self.path).expanduser()
        folders = [root or Path(), Path(), *places(root)]
        found = first_there(folder / path for folder in folders)
        if found is None:
            raise IsoplastError(
                f"data file {self.path!r} is not there: give its path, absolute or from {Path.cwd()}"
            )
        arrays = read_arrays(found)
        names = [f"{'test_' if split == 'test' else ''}{part}" for part in ("inputs", "targets")]
        for name in names:
            if name not in arrays:
                raise IsoplastError(f"{found} has no array {name!r}, only {', '.join(arrays) or 'none'}")
        inputs, targets = (arrays[name] for name in names)
        try:
            return Dataset(inputs, targets, self.classes, name=path.stem, note=path.name)
        except IsoplastError as error:
            raise IsoplastError(f"{found}: {error}") from None


def save_data(path: str | Path, data: Dataset, test: Dataset | None = None) -> File:
    """Write a data set to a file that studies can read, and return the `data` that names it.

    Args:
        path: a name that ends in .npz; the folder must exist.
        data: what to write, for training.
        test: held-out samples of the same kind; None: those of the data, if there are any.

    Returns:
        The `File` for a `Run`: its path is absolute.

    Raises:
        IsoplastError: the name ends in something else.

    Example:
        >>> data = save_data("mine.npz", Dataset(np.zeros((100, 8)), np.arange(100) % 10))  # doctest: +SKIP
        >>> Run(data=data, method="adamo")  # doctest: +SKIP
    """
    path = Path(path).absolute()
    if path.suffix != ".npz":
        raise IsoplastError(f"data file {str(path)!r}: save it under a name that ends in .npz")
    arrays = {"inputs": data.inputs.numpy(), "targets": data.targets.numpy()}
    test = data.test if test is None else test
    if test is not None:
        arrays |= {"test_inputs": test.inputs.numpy(), "test_targets": test.targets.numpy()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_whole(path, buffer.getvalue())
    return File(path=str(path), classes=data.classes)
