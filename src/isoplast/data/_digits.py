"""scikit-learn's handwritten digits: 1797 images of 8x8 pixels, part of the installed package."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast.data._images import Images, Raw
from isoplast.data._spec import register_data

# The package has no split of its own: the first 80 % are "train" and the last 360 images "test". The images
# are ordered by writer, so the two parts share few writers, and both are balanced to within 5 per class.
TRAIN = 1437


@register_data
@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(Images):
    """Handwritten digits of 8x8 pixels, which come with scikit-learn: no download.

    Reference: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998.
    """

    name = "digits"
    classes = 10
    peak = 16.0
    mean = (0.3054,)
    std = (0.3755,)

    def raw(self, split: str, root: Path | None) -> Raw:
        """The digits; `root` is not needed, nothing is looked for on disk.

        Raises:
            IsoplastError: scikit-learn is not installed.
        """
        images, labels = _table()
        part = slice(None, TRAIN) if split == "train" else slice(TRAIN, None)
        return Raw(
            images[part].reshape(-1, 1, 8, 8).astype(np.uint8),
            labels[part].astype(np.uint8),
            "scikit-learn digits",
        )


def _table() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pixels (n, 64) and labels (n,), from the file in the package.

    Importing scikit-learn, with scipy and pandas, would take every worker of a study a second.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None:
        raise IsoplastError(
            "data 'digits' needs scikit-learn: install the extra, pip install 'isoplast[bench]'"
        )
    for folder in package.submodule_search_locations or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.exists():
            with gzip.open(file, "rt", encoding="ascii") as lines:
                table = np.loadtxt(lines, delimiter=",")
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits  # of a version that keeps it elsewhere

    images, labels = load_digits(return_X_y=True)
    return images, labels
