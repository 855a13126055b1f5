"""MNIST from its four official IDX files, plain or gzipped, under any of their usual names.

The hashes are those of the files inside the .gz wrappers, which several sites have packed anew.

Reference: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isoplast._core.archives import unpack_gzip
from isoplast._core.errors import IsoplastError
from isoplast.data._download import REFUSED, download
from isoplast.data._editions import Edition, candidates, declared
from isoplast.data._files import KnownFile, cache_folder, file_size, first_there, identify, places, read_bytes
from isoplast.data._images import Bytes, Images, Raw, check_labels
from isoplast.data._spec import register_data

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"

# split -> (images, labels)
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
OFFICIAL = Edition.of(
    "MNIST",
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
)

# Ours, torchvision's, its inner folder by itself, and the files alone.
_FOLDERS = ("mnist", "mnist/raw", "MNIST/raw", "MNIST", "raw", ".")


@register_data
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mnist(Images):
    """Handwritten digits of 28x28 pixels."""

    name = "mnist"
    classes = 10
    peak = 255.0
    # Of all 47 million train pixels.
    mean = (0.1307,)
    std = (0.3081,)

    def raw(self, split: str, root: Path | None) -> Raw:
        """Reads one split from the first place that holds its files, else downloads them into the cache.

        Raises:
            IsoplastError: a file is damaged or cannot be had.
        """
        searched = places(root)
        editions = [OFFICIAL, *declared(self.name, searched)]
        folders = [folder / sub for folder in searched for sub in _FOLDERS]
        images_name, labels_name = FILES[split]
        where, data, known = _load(images_name, candidates(images_name, editions), folders)
        images = parse_idx(data, 3, where)
        # The labels must be of the same edition as the images.
        edition = next(one for one in editions if one.files.get(images_name) == known)
        where, data, _ = _load(labels_name, candidates(labels_name, [edition]), folders)
        labels = parse_idx(data, 1, where)
        check_labels(labels, self.classes, where)
        if len(labels) != len(images):
            raise IsoplastError(
                f"{where}: {len(labels):,} labels for {len(images):,} images; {_advice(where)}"
            )
        return Raw(images[:, None], labels, edition.note)


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


def _load(name: str, known: Sequence[KnownFile], folders: list[Path]) -> tuple[str, bytes, KnownFile]:
    """Where a file was found, its bytes and which of the known ones it is."""
    if not known:
        raise IsoplastError(f"the edition of its images declares no {name}: add it to the manifest")
    path = first_there(folder / variant for folder in folders for variant in _variants(name))
    if path is None:
        path = cache_folder() / "mnist" / f"{name}.gz"
        url, official = URL + path.name, [OFFICIAL.files[name]]
        data = download(url, path, _most_packed(official), lambda data: _unpack(data, official, url, REFUSED))
        return str(path), *_unpack(data, official, str(path), REFUSED)
    advice = _advice(f"{name}.gz")
    size, most = file_size(path, advice), _most_packed(known)
    if size > most:
        raise IsoplastError(f"{path}: wrong size, {size:,} bytes, expected at most {most:,}; {advice}")
    return str(path), *_unpack(read_bytes(path, advice), known, str(path), advice)


def _variants(name: str) -> list[str]:
    """The names under which a file is found: as published, with a dot, in a folder of its own name."""
    dotted = name.replace("-idx", ".idx")
    plain = [f"{name}/{name}", f"{dotted}/{name}", f"{dotted}/{dotted}", name, dotted]
    return [*plain, f"{name}.gz", f"{dotted}.gz"]


def _advice(name: str) -> str:
    return f"delete it and fetch it again from {URL}{name}"


def _most_packed(known: Sequence[KnownFile]) -> int:
    """Bytes: packing makes what cannot be packed longer by a few in a thousand."""
    return max(file.size for file in known) * 101 // 100 + (1 << 16)


def _unpack(data: bytes, known: Sequence[KnownFile], where: str, advice: str) -> tuple[bytes, KnownFile]:
    if where.endswith(".gz"):
        try:
            data = unpack_gzip(data, max(file.size for file in known))
        except IsoplastError as error:
            raise IsoplastError(f"{where}: {error}; {advice}") from None
    return data, identify(data, known, where, advice)
