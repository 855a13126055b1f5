"""The batches of CIFAR: records of bytes in the binary version, a pickle in the python version."""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from isoplast._core.errors import IsoplastError
from isoplast.data._images import Bytes, check_labels

PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Records:
    """What a record of a batch holds: its labels, then the red, green and blue plane.

    Args:
        title: what people call the data set.
        labels: bytes of labels in front of the pixels.
        label: which of them counts.
        key: of that label in the python version.
        classes: labels are 0 .. classes - 1.
    """

    title: str
    labels: int
    label: int
    key: str
    classes: int


def parse_batch(data: bytes, records: Records, where: str, advice: str) -> tuple[Bytes, Bytes]:
    """Images (n, 3, 32, 32) and labels (n,) of one batch, of the binary version if its name ends in .bin.

    Raises:
        IsoplastError: it is no batch, or holds a label that is no class.
    """
    parse = _parse_records if where.endswith(".bin") else _parse_pickle
    images, labels = parse(data, records, where, advice)
    check_labels(labels, records.classes, where)
    return images.reshape(-1, 3, 32, 32), labels.astype(np.uint8)


def _parse_records(
    data: bytes, records: Records, where: str, advice: str
) -> tuple[Bytes, npt.NDArray[np.integer]]:
    size = records.labels + PIXELS
    if len(data) % size or not data:
        raise IsoplastError(
            f"{where}: {len(data):,} bytes are no whole number of {size}-byte records; {advice}"
        )
    found = np.frombuffer(data, dtype=np.uint8).reshape(-1, size)
    return found[:, records.labels :], found[:, records.label]


class _Unpickler(pickle.Unpickler):
    """Knows what an array of numpy is made of, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _PARTS and module.split(".")[0] in ("numpy", "_codecs"):
            return _PARTS[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _encoded(text: str, encoding: str) -> bytes:
    """How a pickle of Python 3 in an old protocol writes bytes."""
    return text.encode("latin-1" if encoding == "latin1" else "ascii")


_PARTS: dict[str, Callable[..., Any]] = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": np.zeros(0).__reduce__()[0],  # type: ignore[dict-item]
    "_frombuffer": np.zeros(0).__reduce_ex__(5)[0],  # type: ignore[dict-item]
    "encode": _encoded,
}


def _parse_pickle(
    data: bytes, records: Records, where: str, advice: str
) -> tuple[Bytes, npt.NDArray[np.integer]]:
    """A mapping with `data`, (n, 3072) unsigned bytes, and a list of labels; its keys are bytes or text."""
    try:
        batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        found = {key if isinstance(key, str) else key.decode(): value for key, value in batch.items()}
        images, labels = found["data"], np.array(found[records.key], dtype=np.int64)
        good = isinstance(images, np.ndarray) and images.dtype == np.uint8
        good = good and images.shape == (len(labels), PIXELS) and len(labels) > 0
    except Exception as error:  # damaged bytes let an unpickler raise nearly anything
        raise IsoplastError(f"{where}: no batch of {records.title} ({error}); {advice}") from None
    if not good:
        raise IsoplastError(
            f"{where}: no batch of {records.title} (its data are no bytes of images); {advice}"
        )
    return images, labels
