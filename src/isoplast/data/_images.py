"""Data sets of images: read as bytes, standardised by constants of their train split."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isoplast._core.errors import IsoplastError
from isoplast.data._dataset import Dataset, choose
from isoplast.data._spec import DataSpec

Bytes = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, eq=False)
class Raw:
    """The images and labels of one split as the files hold them.

    Args:
        images: (n, c, h, w), unsigned bytes.
        labels: (n,), unsigned bytes.
        note: which edition of the data set this is.
    """

    images: Bytes
    labels: Bytes
    note: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images(DataSpec):
    """A data set of images in classes.

    Attributes:
        classes: the number of classes; labels are 0 .. classes - 1.
        peak: the pixel value that becomes 1.
        mean, std: per channel, of the train split's pixels divided by `peak`.
    """

    classes: ClassVar[int]
    peak: ClassVar[float]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]

    @abstractmethod
    def raw(self, split: str, root: Path | None) -> Raw:
        """One split as the files hold it."""

    def read(self, split: str, root: Path | None) -> Dataset:
        """The samples of a split, chosen before they become floating point numbers.

        The fingerprint is the sha256 of the bytes of exactly these images, then of their labels.
        """
        raw = self.raw(split, root)
        images, labels = raw.images, raw.labels
        if self.samples is not None:
            chosen = choose(self.samples, len(labels), labels, self.name, f"{raw.note}, {split}")
            images, labels = images[chosen], labels[chosen]
        return Dataset(
            inputs=self._standardised(images),
            targets=torch.from_numpy(labels.astype(np.int64)),
            classes=self.classes,
            name=self.name,
            note=raw.note,
            fingerprint=hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
        )

    def _standardised(self, images: Bytes) -> Tensor:
        channels = (1, -1, 1, 1)
        inputs = images.astype(np.float32)  # in place from here on: 50 000 colour images are 614 MB
        inputs /= np.float32(self.peak)
        inputs -= np.asarray(self.mean, dtype=np.float32).reshape(channels)
        inputs /= np.asarray(self.std, dtype=np.float32).reshape(channels)
        return torch.from_numpy(inputs)


def check_labels(labels: npt.NDArray[np.integer], classes: int, where: str) -> None:
    """Refuses labels outside 0 .. classes - 1.

    Raises:
        IsoplastError: names the first wrong label and where it stands.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise IsoplastError(
            f"{where}: label {labels[wrong[0]]} of image {wrong[0]} is outside 0..{classes - 1}: "
            "the file is damaged; delete it and fetch it again"
        )
