"""MNIST from its four official IDX files, plain or gzipped.

The hashes are those of the files inside the .gz wrappers, which several sites have packed anew.

Reference: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast.data._files import (
    REFUSED,
    KnownFile,
    cache_folder,
    download,
    first_existing,
    identify,
    places,
    read_bytes,
)
from isoplast.data._raw import Bytes, Raw, Source, check_labels

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
CLASSES = 10

# split -> (images, labels)
FILES = {
    "train": (
        KnownFile(
            "train-images-idx3-ubyte",
            47_040_016,
            "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        KnownFile(
            "train-labels-idx1-ubyte",
            60_008,
            "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
    ),
    "test": (
        KnownFile(
            "t10k-images-idx3-ubyte",
            7_840_016,
            "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        KnownFile(
            "t10k-labels-idx1-ubyte",
            10_008,
            "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
}


def read(split: str, root: Path | None) -> Raw:
    """Reads one split from the first place that holds its files, else downloads them into the cache.

    Raises:
        IsoplastError: a file is damaged or cannot be had.
    """
    images_file, labels_file = FILES[split]
    folders = [folder / sub for folder in places(root) for sub in ("mnist", "MNIST/raw", ".")]
    images_where, images_bytes = _load(images_file, folders)
    labels_where, labels_bytes = _load(labels_file, folders)
    images = parse_idx(images_bytes, 3, images_where)
    labels = parse_idx(labels_bytes, 1, labels_where)
    check_labels(labels, CLASSES, labels_where)
    return Raw(images[:, None], labels, "MNIST")


def parse_idx(data: bytes, dimensions: int, where: str) -> Bytes:
    """The array of unsigned bytes in an IDX file.

    Layout: the magic number (0x08 for unsigned bytes) << 8 | dimensions, then each dimension, all big-endian
    32-bit integers; then the values in row-major order.

    Args:
        data: the whole file, unpacked.
        dimensions: how many dimensions it must have: 3 for images, 1 for labels.
        where: the file as the message names it.

    Raises:
        IsoplastError: wrong magic number, or a length that its own header contradicts.
    """
    header = 4 * (1 + dimensions)
    magic = int.from_bytes(data[:4], "big")
    if magic != 0x800 | dimensions:
        raise IsoplastError(
            f"{where}: magic number {magic:#010x}, an IDX file of {dimensions} dimensions begins with "
            f"{0x800 | dimensions:#010x}; delete it and fetch it again from {URL}"
        )
    if len(data) < header:
        raise IsoplastError(f"{where}: truncated inside its header; delete it and fetch it again from {URL}")
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    expected = header + math.prod(shape)
    if len(data) != expected:
        raise IsoplastError(
            f"{where}: {len(data):,} bytes, its header {shape} asks for {expected:,}; "
            f"delete it and fetch it again from {URL}"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _load(known: KnownFile, folders: list[Path]) -> tuple[str, bytes]:
    packed = f"{known.name}.gz"
    remedy = f"delete it and fetch it again from {URL}{packed}"
    path = first_existing(folder / name for folder in folders for name in (known.name, packed))
    if path is None:
        path = cache_folder() / "mnist" / packed
        data = download(URL + packed, path, lambda data: _unpack(data, known, URL + packed, REFUSED))
    else:
        data = read_bytes(path, remedy)
    return str(path), _unpack(data, known, str(path), remedy)


def _unpack(data: bytes, known: KnownFile, where: str, remedy: str) -> bytes:
    if where.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise IsoplastError(f"{where}: truncated or no gzip file ({error}); {remedy}") from error
    identify(data, [known], where, remedy)
    return data


# Mean and standard deviation of all 47 million train pixels.
SOURCE = Source(read=read, classes=CLASSES, peak=255.0, mean=(0.1307,), std=(0.3081,))
