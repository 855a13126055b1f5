"""MNIST and Fashion-MNIST from four official IDX files, plain or gzipped, under any of their usual names.

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

# split -> (images, labels)
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """Where the four files of a data set come from.

    Args:
        url: the official address of their .gz.
        official: the official edition.
        folders: where they lie in each of the places that are searched; the first one in the cache.
        installed: a folder into which a system's package puts them.
    """

    url: str
    official: Edition
    folders: tuple[str, ...]
    installed: tuple[Path, ...] = ()


def _edition(note: str, *hashes: str) -> Edition:
    names = [name for split in FILES.values() for name in split]
    sizes = (47_040_016, 60_008, 7_840_016, 10_008)
    known = zip(names, sizes, hashes, strict=True)
    return Edition.of(note, *(KnownFile(name, size, f"sha256:{found}") for name, size, found in known))


MNIST = Site(
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    _edition(
        "MNIST",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    # Ours, torchvision's, its inner folder by itself, and the files alone.
    ("mnist", "mnist/raw", "MNIST/raw", "MNIST", "raw", "."),
)
FASHION = Site(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    _edition(
        "Fashion-MNIST",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    # Ours, torchvision's; never the files alone, which have the names of MNIST's.
    ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST"),
    (Path("/usr/share/datasets/fashion-mnist"),),
)


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
        return _read(self, MNIST, split, root)


@register_data
@dataclasses.dataclass(frozen=True, kw_only=True)
class FashionMnist(Images):
    """Photographs of clothes, 28x28 pixels, ten classes, in the files of MNIST.

    Reference: arXiv:1708.07747.
    """

    name = "fashion-mnist"
    classes = 10
    peak = 255.0
    mean = (0.2860,)
    std = (0.3530,)

    def raw(self, split: str, root: Path | None) -> Raw:
        """Reads one split, as `Mnist` does; on Debian also from the package dataset-fashion-mnist.

        Raises:
            IsoplastError: a file is damaged or cannot be had.
        """
        return _read(self, FASHION, split, root)


def _read(data: Images, site: Site, split: str, root: Path | None) -> Raw:
    searched = places(root)
    editions = [site.official, *declared(data.name, searched)]
    folders = [folder / sub for folder in searched for sub in site.folders] + list(site.installed)
    images_name, labels_name = FILES[split]
    where, content, known = _load(site, images_name, candidates(images_name, editions), folders)
    images = parse_idx(content, 3, where, site.url)
    # The labels must be of the same edition as the images.
    edition = next(one for one in editions if one.files.get(images_name) == known)
    where, content, _ = _load(site, labels_name, candidates(labels_name, [edition]), folders)
    labels = parse_idx(content, 1, where, site.url)
    check_labels(labels, data.classes, where)
    if len(labels) != len(images):
        raise IsoplastError(
            f"{where}: {len(labels):,} labels for {len(images):,} images; {_advice(site, where)}"
        )
    return Raw(images[:, None], labels, edition.note)


def parse_idx(data: bytes, dimensions: int, where: str, url: str) -> Bytes:
    """The array of unsigned bytes in an IDX file.

    Layout: the magic number (0x08 for unsigned bytes) << 8 | dimensions, then each dimension, all big-endian
    32-bit integers; then the values in row-major order.

    Args:
        data: the whole file, unpacked.
        dimensions: how many dimensions it must have: 3 for images, 1 for labels.
        where: the file as the message names it.
        url: where it comes from, for the same.

    Raises:
        IsoplastError: wrong magic number, or a length that its own header contradicts.
    """
    header = 4 * (1 + dimensions)
    magic = int.from_bytes(data[:4], "big")
    if magic != 0x800 | dimensions:
        raise IsoplastError(
            f"{where}: magic number {magic:#010x}, an IDX file of {dimensions} dimensions begins with "
            f"{0x800 | dimensions:#010x}; delete it and fetch it again from {url}"
        )
    if len(data) < header:
        raise IsoplastError(f"{where}: truncated inside its header; delete it and fetch it again from {url}")
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    expected = header + math.prod(shape)
    if len(data) != expected:
        raise IsoplastError(
            f"{where}: {len(data):,} bytes, its header {shape} asks for {expected:,}; "
            f"delete it and fetch it again from {url}"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _load(
    site: Site, name: str, known: Sequence[KnownFile], folders: list[Path]
) -> tuple[str, bytes, KnownFile]:
    """Where a file was found, its bytes and which of the known ones it is."""
    if not known:
        raise IsoplastError(f"the edition of its images declares no {name}: add it to the manifest")
    path = first_there(folder / variant for folder in folders for variant in _variants(name))
    if path is None:
        path = cache_folder() / site.folders[0] / f"{name}.gz"
        url, official = site.url + path.name, [site.official.files[name]]
        data = download(url, path, _most_packed(official), lambda data: _unpack(data, official, url, REFUSED))
        return str(path), *_unpack(data, official, str(path), REFUSED)
    advice = _advice(site, f"{name}.gz")
    size, most = file_size(path, advice), _most_packed(known)
    if size > most:
        raise IsoplastError(f"{path}: wrong size, {size:,} bytes, expected at most {most:,}; {advice}")
    return str(path), *_unpack(read_bytes(path, advice), known, str(path), advice)


def _variants(name: str) -> list[str]:
    """The names under which a file is found: as published, with a dot, in a folder of its own name."""
    dotted = name.replace("-idx", ".idx")
    plain = [f"{name}/{name}", f"{dotted}/{name}", f"{dotted}/{dotted}", name, dotted]
    return [*plain, f"{name}.gz", f"{dotted}.gz"]


def _advice(site: Site, name: str) -> str:
    return f"delete it and fetch it again from {site.url}{name}"


def _most_packed(known: Sequence[KnownFile]) -> int:
    """Bytes: packing makes what cannot be packed longer by a few in a thousand."""
    return max(file.size or 0 for file in known) * 101 // 100 + (1 << 16)


def _unpack(data: bytes, known: Sequence[KnownFile], where: str, advice: str) -> tuple[bytes, KnownFile]:
    if where.endswith(".gz"):
        try:
            data = unpack_gzip(data, max(file.size or 0 for file in known))
        except IsoplastError as error:
            raise IsoplastError(f"{where}: {error}; {advice}") from None
    return data, identify(data, known, where, advice)
