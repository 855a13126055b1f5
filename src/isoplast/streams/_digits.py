"""scikit-learn's handwritten digits: 1797 images of 8x8 pixels, part of the installed package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isoplast._errors import IsoplastError
from isoplast.streams._raw import Raw, Source

# The package has no split of its own: the first 80 % are "train" and the last 360 images "test". The images
# are ordered by writer, so the two parts share few writers, and both are balanced to within 5 per class.
TRAIN = 1437


def read(split: str, root: Path | None) -> Raw:
    """The digits; `root` is not needed, nothing is looked for on disk.

    Raises:
        IsoplastError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise IsoplastError(
            "data 'digits' needs scikit-learn: install the extra, pip install 'isoplast[bench]'"
        ) from error
    digits = load_digits()
    part = slice(None, TRAIN) if split == "train" else slice(TRAIN, None)
    images = digits.images[part, None].astype(np.uint8)
    return Raw(images, digits.target[part].astype(np.uint8), "scikit-learn digits")


SOURCE = Source(read=read, classes=10, peak=16.0, mean=(0.3054,), std=(0.3755,))
