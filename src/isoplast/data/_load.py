"""Data sets: standardised images in memory, from verified files."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isoplast._core.errors import IsoplastError, unknown
from isoplast.data import _cifar, _digits, _mnist
from isoplast.data._raw import Bytes, Raw, Source

_SOURCES: dict[str, Source] = {
    "cifar10": _cifar.SOURCE,
    "digits": _digits.SOURCE,
    "mnist": _mnist.SOURCE,
}
_SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their labels, in memory, never changed.

    Args:
        name: the name it was loaded by.
        inputs: float32 (n, d) or (n, c, h, w), standardised.
        targets: int64 (n,), in 0 .. classes - 1.
        classes: the number of classes.
        note: which edition of the data set this is, e.g. "CIFAR-10 (JPEG subset)".
        fingerprint: sha256 of the raw bytes of exactly these images, then of their labels.
    """

    name: str
    inputs: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    classes: int | None
    note: str
    fingerprint: str = field(repr=False)


def data_names() -> list[str]:
    """The names that `load_data` knows."""
    return sorted(_SOURCES)


def load_data(
    name: str,
    *,
    samples: int | None = None,
    split: str = "train",
    root: str | os.PathLike[str] | None = None,
) -> Dataset:
    r"""Loads a data set, standardised and checked to the bit.

    Every channel is standardised by constants of the train split, the same for both splits and any `samples`:

    .. math:: x = (\mathrm{pixel} / \mathrm{peak} - \mu_c) / \sigma_c

    | name    | one image  | train / test    | peak | mean                | std                 |
    |---------|------------|-----------------|------|---------------------|---------------------|
    | digits  | 1 x 8 x 8  | 1437 / 360      | 16   | .3054               | .3755               |
    | mnist   | 1 x 28 x 28| 60 000 / 10 000 | 255  | .1307               | .3081               |
    | cifar10 | 3 x 32 x 32| 50 000 / 10 000 | 255  | .4914, .4822, .4465 | .2470, .2435, .2616 |

    The digits come with scikit-learn. The files of the others are looked for in `root`, in the folder that
    the environment variable `ISOPLAST_DATA` names, and in the cache (`ISOPLAST_CACHE`, else
    ~/.cache/isoplast); if none has them, they are downloaded into the cache. A file that is damaged or of
    unknown content is refused, wherever it lies.

    Args:
        name: "digits", "mnist" or "cifar10".
        samples: how many images, 1 .. all; None is all of them. The choice is fixed and takes no seed: the
            first images of each class, equally many of each (one more of some where `samples` does not
            divide; a class with too few gives what it has), in file order. The choices are nested: the
            images of `samples=500` are among those of `samples=1000`.
        split: "train" or "test".
        root: a folder to look in first.

    Returns:
        The data set, on the CPU.

    Raises:
        IsoplastError: an unknown name or split, `samples` out of range, a file that is damaged or cannot be
            had, or scikit-learn missing for "digits".

    Example:
        >>> load_data("digits", samples=1280).inputs.shape
        torch.Size([1280, 1, 8, 8])
    """
    if name not in _SOURCES:
        raise unknown("data", name, _SOURCES)
    if split not in _SPLITS:
        raise unknown("split", split, _SPLITS)
    if samples is not None and samples < 1:
        raise IsoplastError(f"samples={samples} of data {name!r}: ask for at least 1, or None for all")
    source = _SOURCES[name]
    raw = source.read(split, None if root is None else Path(root))
    images, labels = raw.images, raw.labels
    if samples is not None:
        chosen = _balanced(raw, samples, name, split)
        images, labels = images[chosen], labels[chosen]
    return Dataset(
        name=name,
        inputs=_standardise(images, source),
        targets=torch.from_numpy(labels.astype(np.int64)),
        classes=source.classes,
        note=raw.note,
        fingerprint=hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
    )


def _balanced(raw: Raw, samples: int, name: str, split: str) -> npt.NDArray[np.int64]:
    """The indices of the fixed subset, ascending."""
    labels, total = raw.labels, len(raw.labels)
    if samples > total:
        raise IsoplastError(
            f"samples={samples} of data {name!r}: its {split} split has {total} images ({raw.note}); "
            f"ask for at most {total}"
        )
    rank = np.empty(total, dtype=np.int64)  # an image's position among those of its class
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    return np.sort(np.argsort(rank, kind="stable")[:samples])


def _standardise(images: Bytes, source: Source) -> Tensor:
    channels = (1, -1, 1, 1)
    inputs = images.astype(np.float32)  # in place from here on: 50 000 colour images are 614 MB
    inputs /= np.float32(source.peak)
    inputs -= np.asarray(source.mean, dtype=np.float32).reshape(channels)
    inputs /= np.asarray(source.std, dtype=np.float32).reshape(channels)
    return torch.from_numpy(inputs)
