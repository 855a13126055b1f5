"""What the reader of one data set hands over: raw arrays, and how to standardise them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isoplast._core.errors import IsoplastError

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True)
class Source:
    """One data set: its reader and the constants that standardise its pixels.

    Args:
        read: reads the split "train" or "test"; the second argument is a folder to look in first.
        classes: the number of classes; labels are 0 .. classes - 1.
        peak: the pixel value that becomes 1.
        mean, std: per channel, of the train split's pixels divided by `peak`.
    """

    read: Callable[[str, Path | None], Raw]
    classes: int
    peak: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def check_labels(labels: Bytes, classes: int, where: str) -> None:
    """Refuses labels outside 0 .. classes - 1.

    Raises:
        IsoplastError: names the first wrong label and where it stands.
    """
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        raise IsoplastError(
            f"{where}: label {labels[wrong[0]]} of image {wrong[0]} is outside 0..{classes - 1}: "
            "the file is damaged; delete it and fetch it again"
        )
