"""scikit-learn's handwritten digits: 1797 images of 8x8 pixels, part of the installed package."""

from __future__ import annotations

import dataclasses
from pathlib import Path

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
        try:
            from sklearn.datasets import load_digits  # 0.7 s, for scipy and pandas come with it
        except ModuleNotFoundError:
            raise IsoplastError(
                "data 'digits' needs scikit-learn: install the extra, pip install 'isoplast[bench]'"
            ) from None
        images, labels = load_digits(return_X_y=True)
        part = slice(None, TRAIN) if split == "train" else slice(TRAIN, None)
        return Raw(
            images[part].reshape(-1, 1, 8, 8).astype(np.uint8),
            labels[part].astype(np.uint8),
            "scikit-learn digits",
        )
