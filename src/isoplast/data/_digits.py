"""scikit-learn's handwritten digits: 1797 images of 8x8 pixels, part of the installed package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast.data._raw import Raw, Source

# The package has no split of its own: the first 80 % are "train" and the last 360 images "test". The images
# are ordered by writer, so the two parts share few writers, and both are balanced to within 5 per class.
TRAIN = 1437


def read(split: str, root: Path | None) -> Raw:
    """The digits; `root` is not needed, nothing is looked for on disk.

    Raises:
        IsoplastError: scikit-learn is not installed.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise IsoplastError(
            "data 'digits' needs scikit-learn: install the extra, pip install 'isoplast[bench]'"
        )
    # The file that its load_digits reads: importing scikit-learn for it takes longer than a small run.
    rows = np.loadtxt(Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz", delimiter=",")
    part = slice(None, TRAIN) if split == "train" else slice(TRAIN, None)
    images = rows[part, None, :64].reshape(-1, 1, 8, 8).astype(np.uint8)
    return Raw(images, rows[part, 64].astype(np.uint8), "scikit-learn digits")


SOURCE = Source(read=read, classes=10, peak=16.0, mean=(0.3054,), std=(0.3755,))
