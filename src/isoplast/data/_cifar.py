"""CIFAR-10 from its official binary version: the archive as it was downloaded, or its unpacked folder.

Two editions are known, the official one and a small subset. The unpacked records of an archive are not
cached: the subset's .tar.xz takes 1.4 s on one core, once in a run of minutes, and a copy would be one more
file to verify, to lock and to outlive its source. Who loads often unpacks the archive where it lies: the
folder `cifar-10-batches-bin` comes first in every place and needs 0.05 s for each 30 MB file, hash included.

Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast.data._files import REFUSED, KnownFile, cache_folder, download, identify, places, read_bytes
from isoplast.data._raw import Bytes, Raw, Source, check_labels

URL = "https://www.cs.toronto.edu/~kriz/"
FOLDER = "cifar-10-batches-bin"
CLASSES = 10
RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue plane


@dataclass(frozen=True)
class Edition:
    """One known content of CIFAR-10.

    Args:
        note: its name in results.
        archive: the tar file.
        splits: the record files of "train" and "test", in the order in which they are joined.
    """

    note: str
    archive: KnownFile
    splits: dict[str, tuple[KnownFile, ...]]


OFFICIAL = Edition(
    note="CIFAR-10",
    archive=KnownFile("cifar-10-binary.tar.gz", 170_052_171, "md5:c32a1d4ab5d03f1284b67883e8d87530"),
    splits={
        "train": (
            KnownFile("data_batch_1.bin", 30_730_000, "md5:5dd7e06a14cb22eb9f671a540d1b7c25"),
            KnownFile("data_batch_2.bin", 30_730_000, "md5:5ea93a67294ea407fff1d09f752e9692"),
            KnownFile("data_batch_3.bin", 30_730_000, "md5:942cd6a4bcdd0dd3c604fbe906cb4421"),
            KnownFile("data_batch_4.bin", 30_730_000, "md5:ae636b3ba5c66a11e91e8cb52e771fcb"),
            KnownFile("data_batch_5.bin", 30_730_000, "md5:53f37980c15c3d472c316c40844f3f0d"),
        ),
        "test": (KnownFile("test_batch.bin", 30_730_000, "md5:803d5f7f4d78ea53de84dbe85f74fb6d"),),
    },
)

# 10 000 train and 2 000 test images, balanced. Their pixels went through JPEG (quality about 75): good for
# streams of tasks, but an accuracy measured on them is not a CIFAR-10 accuracy, hence the note.
SUBSET = Edition(
    note="CIFAR-10 (JPEG subset)",
    archive=KnownFile(
        "cifar-10-subset.tar.xz",
        28_466_112,
        "sha256:cda9ef27ac0c6eacd3406e37fd255a2d98bac6c48da2588da65fd8cc4445a437",
    ),
    splits={
        "train": (
            KnownFile(
                "data_batch_1.bin",
                30_730_000,
                "sha256:0f187d8a1c5725d8cf10be9337f9f4cd543186bb25fa9e3e3d084a441c345b09",
            ),
        ),
        "test": (
            KnownFile(
                "test_batch.bin",
                6_146_000,
                "sha256:48089e466f265e7e976723aff5f530a99332b7d6cf78eb6d579eac93145cbd5e",
            ),
        ),
    },
)

EDITIONS: tuple[Edition, ...] = (OFFICIAL, SUBSET)


def read(split: str, root: Path | None) -> Raw:
    """Reads one split from the first place that holds CIFAR-10, else downloads the official archive.

    In each place the unpacked folder comes first, then the archives in the order of `EDITIONS`.

    Raises:
        IsoplastError: a file is damaged, of no known edition, or cannot be had.
    """
    for place in places(root):
        for folder in (place, place / "cifar10"):
            if (folder / FOLDER).is_dir():
                return _read_folder(folder / FOLDER, split)
            for edition in EDITIONS:
                path = folder / edition.archive.name
                if path.exists():
                    data = read_bytes(path, _remedy(edition))
                    identify(data, [edition.archive], str(path), _remedy(edition))
                    return _read_archive(data, edition, split, path)
    return _download(split)


def parse_records(data: bytes, where: str) -> tuple[Bytes, Bytes]:
    """Images (n, 3, 32, 32) and labels (n,) of one file of records.

    Raises:
        IsoplastError: no whole number of records, or a label above 9.
    """
    if len(data) % RECORD or not data:
        raise IsoplastError(
            f"{where}: {len(data):,} bytes are no whole number of {RECORD}-byte records; "
            f"delete it and fetch it again from {URL}{OFFICIAL.archive.name}"
        )
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, RECORD)
    labels = records[:, 0]
    check_labels(labels, CLASSES, where)
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def _read_folder(folder: Path, split: str) -> Raw:
    remedy = f"delete {folder} and unpack {URL}{OFFICIAL.archive.name} again"
    # The first file tells the edition; the others must then be of the same one.
    firsts = [edition.splits[split][0] for edition in EDITIONS]
    path = folder / firsts[0].name
    first = read_bytes(path, remedy)
    found = identify(first, firsts, str(path), remedy)
    edition = EDITIONS[firsts.index(found)]
    contents = [(str(path), first)]
    for known in edition.splits[split][1:]:
        path = folder / known.name
        data = read_bytes(path, remedy)
        identify(data, [known], str(path), remedy)
        contents.append((str(path), data))
    return _join(contents, edition)


def _read_archive(data: bytes, edition: Edition, split: str, path: Path) -> Raw:
    wanted = [f"{FOLDER}/{known.name}" for known in edition.splits[split]]
    members: dict[str, bytes] = {}
    # "r|*" reads forward only and stops at the last wanted member; a look-up by name unpacks it all, twice.
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|*") as archive:
        for member in archive:
            if member.name in wanted and (content := archive.extractfile(member)):
                members[member.name] = content.read()
            if len(members) == len(wanted):
                break
    return _join([(f"{path}:{name}", members[name]) for name in wanted], edition)


def _join(contents: Sequence[tuple[str, bytes]], edition: Edition) -> Raw:
    parts = [parse_records(data, where) for where, data in contents]
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    return Raw(images, labels, edition.note)


def _download(split: str) -> Raw:
    url, path = URL + OFFICIAL.archive.name, cache_folder() / OFFICIAL.archive.name
    data = download(url, path, lambda data: identify(data, [OFFICIAL.archive], url, REFUSED))
    return _read_archive(data, OFFICIAL, split, path)


def _remedy(edition: Edition) -> str:
    if edition is OFFICIAL:
        return f"delete it and fetch it again from {URL}{edition.archive.name}"
    return f"copy {edition.note} again, or delete it and use {URL}{OFFICIAL.archive.name}"


# Of the official 50 000 train images; used for both editions (the subset's own differ by less than 0.003).
SOURCE = Source(
    read=read,
    classes=CLASSES,
    peak=255.0,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
