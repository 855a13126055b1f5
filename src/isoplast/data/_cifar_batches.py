"""The batches of CIFAR-10: records of bytes in the binary version, a pickle in the python version."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast.data._images import Bytes, check_labels

CLASSES = 10
PIXELS = 3 * 32 * 32
RECORD = 1 + PIXELS  # bytes: the label, then the red, green and blue plane


def parse_batch(data: bytes, where: str, advice: str) -> tuple[Bytes, Bytes]:
    """Images (n, 3, 32, 32) and labels (n,) of one batch, of the binary version if its name ends in .bin.

    Raises:
        IsoplastError: it is no batch, or holds a label above 9.
    """
    parse = _parse_records if where.endswith(".bin") else _parse_pickle
    images, labels = parse(data, where, advice)
    return images.reshape(-1, 3, 32, 32), labels


def _parse_records(data: bytes, where: str, advice: str) -> tuple[Bytes, Bytes]:
    if len(data) % RECORD or not data:
        raise IsoplastError(
            f"{where}: {len(data):,} bytes are no whole number of {RECORD}-byte records; {advice}"
        )
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, RECORD)
    labels = records[:, 0]
    check_labels(labels, CLASSES, where)
    return records[:, 1:], labels


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


def _parse_pickle(data: bytes, where: str, advice: str) -> tuple[Bytes, Bytes]:
    """A mapping with `data`, (n, 3072) unsigned bytes, and `labels`, a list; its keys are bytes or text."""
    try:
        batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        found = {key if isinstance(key, str) else key.decode(): value for key, value in batch.items()}
        images, labels = found["data"], np.array(found["labels"], dtype=np.int64)
        good = isinstance(images, np.ndarray) and images.dtype == np.uint8
        good = good and images.shape == (len(labels), PIXELS) and len(labels) > 0
    except Exception as error:  # damaged bytes let an unpickler raise nearly anything
        raise IsoplastError(f"{where}: no batch of CIFAR-10 ({error}); {advice}") from None
    if not good:
        raise IsoplastError(f"{where}: no batch of CIFAR-10 (its data are no bytes of images); {advice}")
    check_labels(labels, CLASSES, where)
    return images, labels.astype(np.uint8)
