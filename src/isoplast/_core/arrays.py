"""Arrays by name from .npy, .npz and .safetensors files: nothing is executed, sizes are checked first."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isoplast._core.archives import ZipArchive
from isoplast._core.errors import IsoplastError
from isoplast._core.text import shown

SUFFIXES = (".npy", ".npz", ".safetensors")

# A header of numpy is a dictionary of three entries: 128 bytes, or as many as 32 dimensions need.
_HEADER = 2000
_NUMBERS = re.compile(r"[<>|=]?(b1|[iu][1248]|f2|f4|f8|f16|c8|c16)")


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a file by name; the one of a .npy file is called "inputs".

    Args:
        path: a .npy, .npz or .safetensors file.

    Returns:
        Tensors on the CPU, of the types they have in the file.

    Raises:
        IsoplastError: there is no such file, it is damaged, or holds something other than numbers; one line.
    """
    if not path.is_file():
        raise IsoplastError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    try:
        if path.suffix == ".npy":
            return {"inputs": _tensor(path.read_bytes())}
        with ZipArchive(path) as archive:
            names = [name for name in archive.sizes if name.endswith(".npy")]
            return {name.removesuffix(".npy"): _tensor(archive.read(name)) for name in names}
    except IsoplastError as error:
        raise IsoplastError(f"{path} holds no arrays of numbers: {error}") from None


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata.

    Raises:
        IsoplastError: it is damaged, or the package safetensors is missing; one line.
    """
    package = safetensors()
    try:
        with package.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (package.SafetensorError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise IsoplastError(f"{path} is truncated or damaged: {error}") from None


def safetensors() -> Any:
    """The package safetensors.

    Raises:
        IsoplastError: it is not installed.
    """
    try:
        import safetensors
        import safetensors.torch
    except ModuleNotFoundError:
        raise IsoplastError('safetensors is not installed: pip install "isoplast[bench]"') from None
    return safetensors


def _tensor(data: bytes) -> Tensor:
    array = parse_npy(data)
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except TypeError as error:  # a type that torch has not
        raise IsoplastError(str(error)) from None


def parse_npy(data: bytes) -> npt.NDArray[Any]:
    """The array in the bytes of an .npy file, without a copy.

    numpy reads the header as a Python literal of any depth, and allocates what it asks for.

    Raises:
        IsoplastError: the header and the number of bytes disagree, or it holds anything but numbers.
    """
    length = {1: 2, 2: 4, 3: 4}.get(data[6] if len(data) > 6 else 0)
    if data[:6] != b"\x93NUMPY" or length is None:
        raise IsoplastError("it is truncated or no .npy file")
    start = 8 + length
    end = start + int.from_bytes(data[8:start], "little")
    kind, fortran, shape = _header(data[start : min(end, start + _HEADER + 1)])
    dtype = np.dtype(kind)
    count = math.prod(shape)
    if count * dtype.itemsize != len(data) - end:
        raise IsoplastError(
            f"its header asks for {'x'.join(map(str, shape)) or 'one'} {dtype.name}, "
            f"{count * dtype.itemsize:,} bytes, and {max(len(data) - end, 0):,} follow"
        )
    array = np.frombuffer(data, dtype=dtype, count=count, offset=end if count else 0)
    return array.reshape(shape, order="F" if fortran else "C")


def _header(header: bytes) -> tuple[str, bool, tuple[int, ...]]:
    text = header.decode("latin-1")
    # Each bracket is one level of Python's parser, which ends the process where there are too many.
    if len(header) <= _HEADER and text.count("(") + text.count("[") + text.count("{") <= 3:
        try:
            found = ast.literal_eval(text.strip())
            kind, fortran, shape = (found[key] for key in ("descr", "fortran_order", "shape"))
        except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
            kind, fortran, shape = None, False, ()
        sizes = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
        if isinstance(kind, str) and sizes and len(shape) <= 32 and isinstance(fortran, bool):
            if not _NUMBERS.fullmatch(kind):
                raise IsoplastError(f"it holds {shown(kind)}, not numbers")
            return kind, fortran, shape
    raise IsoplastError("its header is damaged, or of a type other than numbers")
