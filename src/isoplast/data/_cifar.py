"""CIFAR-10 and CIFAR-100, binary or python version: the archive as downloaded, or its unpacked folder.

The unpacked batches of an archive are not cached: a .tar.xz of 28 MB takes 1.4 s on one core, once in a run
of minutes, and a copy would be one more file to verify, to lock and to outlive its source. Who loads often
unpacks the archive where it lies: an unpacked folder comes first in every place and needs 0.05 s for each
30 MB file, hash included.

Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import dataclasses
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast.data._cifar_batches import Records, parse_batch
from isoplast.data._download import REFUSED, download
from isoplast.data._editions import MANIFEST, Edition, candidates, declared
from isoplast.data._files import (
    KnownFile,
    cache_folder,
    digest,
    file_size,
    identify,
    lies_there,
    places,
    read_bytes,
    read_known,
)
from isoplast.data._images import Images, Raw
from isoplast.data._spec import register_data

URL = "https://www.cs.toronto.edu/~kriz/"


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """How the files of a data set lie.

    Args:
        title: what people call it.
        folders: of the binary and of the python version, which hold the same images in the same order.
        official: the official edition.
        archive: what is downloaded, the binary version.
        batches: for each split the names of its files; the first group is their number, the second their
            ending, ".bin" in the binary version.
        records: what a record holds.
    """

    title: str
    folders: tuple[str, str]
    official: Edition
    archive: KnownFile
    batches: dict[str, re.Pattern[str]]
    records: Records

    def first(self, split: str, end: str) -> str:
        """The file of a split that tells the edition."""
        return next(f"{name}{end}" for name in _FIRST if self.batches[split].fullmatch(f"{name}{end}"))

    def advice(self, delete: str = "delete it") -> str:
        """What to do about a wrong file."""
        return f"{delete} and fetch {URL}{self.archive.name} again, or declare another edition in {MANIFEST}"


_FIRST = ("data_batch_1", "test_batch", "train", "test")

CIFAR10 = Layout(
    title="CIFAR-10",
    folders=("cifar-10-batches-bin", "cifar-10-batches-py"),
    official=Edition.of(
        "CIFAR-10",
        KnownFile("cifar-10-binary.tar.gz", 170_052_171, "md5:c32a1d4ab5d03f1284b67883e8d87530"),
        KnownFile("cifar-10-python.tar.gz", 170_498_071, "md5:c58f30108f718f92721af3b95e74349a"),
        KnownFile("data_batch_1.bin", 30_730_000, "md5:5dd7e06a14cb22eb9f671a540d1b7c25"),
        KnownFile("data_batch_2.bin", 30_730_000, "md5:5ea93a67294ea407fff1d09f752e9692"),
        KnownFile("data_batch_3.bin", 30_730_000, "md5:942cd6a4bcdd0dd3c604fbe906cb4421"),
        KnownFile("data_batch_4.bin", 30_730_000, "md5:ae636b3ba5c66a11e91e8cb52e771fcb"),
        KnownFile("data_batch_5.bin", 30_730_000, "md5:53f37980c15c3d472c316c40844f3f0d"),
        KnownFile("test_batch.bin", 30_730_000, "md5:803d5f7f4d78ea53de84dbe85f74fb6d"),
        KnownFile("data_batch_1", 31_035_704, "md5:c99cafc152244af753f735de768cd75f"),
        KnownFile("data_batch_2", 31_035_320, "md5:d4bba439e000b95fd0a9bffe97cbabec"),
        KnownFile("data_batch_3", 31_035_999, "md5:54ebc095f3ab1f0389bbae665268c751"),
        KnownFile("data_batch_4", 31_035_696, "md5:634d18415352ddfa80567beed471001a"),
        KnownFile("data_batch_5", 31_035_623, "md5:482c414d41f54cd18b22e5b47cb7c3cb"),
        KnownFile("test_batch", 31_035_526, "md5:40351d587109b95175f43aff81a1287e"),
    ),
    archive=KnownFile("cifar-10-binary.tar.gz", 170_052_171, "md5:c32a1d4ab5d03f1284b67883e8d87530"),
    batches={"train": re.compile(r"data_batch_(\d+)(\.bin|)"), "test": re.compile(r"test_batch()(\.bin|)")},
    records=Records("CIFAR-10", labels=1, label=0, key="labels", classes=10),
)
CIFAR100 = Layout(
    title="CIFAR-100",
    folders=("cifar-100-binary", "cifar-100-python"),
    official=Edition.of(
        "CIFAR-100",
        KnownFile("cifar-100-binary.tar.gz", 168_513_733, "md5:03b5dce01913d631647c71ecec9e9cb8"),
        KnownFile("cifar-100-python.tar.gz", 169_001_437, "md5:eb9058c3a382ffc7106e4002c42a8d85"),
        KnownFile("train.bin", 153_700_000, "md5:6172c7755cfe09b2fe270c85cebc1b15"),
        KnownFile("test.bin", 30_740_000, "md5:4499cfba6c016c1be1438163640a0898"),
        KnownFile("train", 155_249_918, "md5:16019d7e3df5f24257cddd939b257f8d"),
        KnownFile("test", None, "md5:f0ef6b0ae62326f3e7ffdfab6717acfc"),
    ),
    archive=KnownFile("cifar-100-binary.tar.gz", 168_513_733, "md5:03b5dce01913d631647c71ecec9e9cb8"),
    batches={"train": re.compile(r"train()(\.bin|)"), "test": re.compile(r"test()(\.bin|)")},
    records=Records("CIFAR-100", labels=2, label=1, key="fine_labels", classes=100),
)


@register_data
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cifar10(Images):
    """Colour photographs of 32x32 pixels in ten classes."""

    name = "cifar10"
    classes = CIFAR10.records.classes
    peak = 255.0
    # Of the official 50 000 train images; used for every edition.
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)

    def raw(self, split: str, root: Path | None) -> Raw:
        """Reads one split from the first place that holds CIFAR-10, else downloads the official archive.

        In each place the unpacked folders come first, then the official archives, then those of manifests.

        Raises:
            IsoplastError: a file is damaged, of no known edition, or cannot be had.
        """
        return _read(self.name, CIFAR10, split, root)


@register_data
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cifar100(Images):
    """Colour photographs of 32x32 pixels in a hundred classes (the fine labels)."""

    name = "cifar100"
    classes = CIFAR100.records.classes
    peak = 255.0
    # Of the official 50 000 train images; used for every edition.
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)

    def raw(self, split: str, root: Path | None) -> Raw:
        """Reads one split, as `Cifar10` does.

        Raises:
            IsoplastError: a file is damaged, of no known edition, or cannot be had.
        """
        return _read(self.name, CIFAR100, split, root)


def _read(name: str, layout: Layout, split: str, root: Path | None) -> Raw:
    searched = places(root)
    editions = [layout.official, *declared(name, searched)]
    for place in searched:
        for folder in (place, place / name):
            found = _read_place(folder, layout, editions, split)
            if found is not None:
                return found
    return _download(layout, split)


def _read_place(folder: Path, layout: Layout, editions: Sequence[Edition], split: str) -> Raw | None:
    for name in layout.folders:
        if lies_there(folder / name):
            return _read_folder(folder / name, layout, editions, split)
    archives = dict.fromkeys(name for edition in editions for name in edition.files if ".tar" in name)
    for path in (folder / name for name in archives):
        if lies_there(path):
            data, known = read_known(path, candidates(path.name, editions), layout.advice())
            edition = next(edition for edition in editions if edition.files.get(path.name) == known)
            return _read_archive(data, layout, edition, split, str(path))
    own = re.compile(rf"{layout.title.lower()}(?!\d).*\.tar")  # cifar-100 is none of cifar-10
    for path in sorted(folder.glob("*.tar*")):
        if own.match(path.name):
            raise _undeclared(path, layout)
    return None


def _read_folder(folder: Path, layout: Layout, editions: Sequence[Edition], split: str) -> Raw:
    advice = layout.advice("delete the folder")
    # The first file tells the edition; the others must then be of the same one.
    end = ".bin" if folder.name == layout.folders[0] else ""
    first = layout.first(split, end)
    data, known = read_known(folder / first, candidates(first, editions), advice)
    edition = next(edition for edition in editions if edition.files.get(first) == known)
    contents = [(str(folder / first), data)]
    for name in _in_order(edition.files, layout, split, end):
        if name != first:
            data, _ = read_known(folder / name, [edition.files[name]], advice)
            contents.append((str(folder / name), data))
    return _join(contents, layout, edition, advice)


def _in_order(names: Iterable[str], layout: Layout, split: str, end: str) -> list[str]:
    """The batches of a split among these names, of the version whose names end so."""
    found = {name: match for name in names if (match := layout.batches[split].fullmatch(name))}
    return sorted(
        (name for name in found if found[name][2] == end), key=lambda name: int(found[name][1] or 0)
    )


def _read_archive(data: bytes, layout: Layout, edition: Edition, split: str, where: str) -> Raw:
    advice = layout.advice()
    members: dict[str, bytes] = {}
    try:
        # "r|*" reads forward only and stops at the last wanted one; a look-up by name unpacks it all, twice.
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|*") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                match = layout.batches[split].fullmatch(name)
                if match is None or folder not in layout.folders:
                    continue
                if not (content := archive.extractfile(member)):
                    continue
                members[name] = content.read()
                if len(members) == len(_in_order(edition.files, layout, split, match[2])):
                    break
    except (tarfile.TarError, OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise IsoplastError(f"{where}: no archive that can be unpacked ({error}); {advice}") from None
    names = _in_order(members, layout, split, ".bin") or _in_order(members, layout, split, "")
    if not names:
        raise IsoplastError(
            f"{where}: holds no batches for {split!r} in a folder {layout.folders[0]}; {advice}"
        )
    return _join([(f"{where}:{name}", members[name]) for name in names], layout, edition, advice)


def _join(contents: Sequence[tuple[str, bytes]], layout: Layout, edition: Edition, advice: str) -> Raw:
    parts = [parse_batch(data, layout.records, where, advice) for where, data in contents]
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    return Raw(images, labels, edition.note)


def _download(layout: Layout, split: str) -> Raw:
    archive = layout.archive
    assert archive.size is not None
    url, path = URL + archive.name, cache_folder() / archive.name
    data = download(url, path, archive.size, lambda data: identify(data, [archive], url, REFUSED))
    return _read_archive(data, layout, layout.official, split, str(path))


def _undeclared(path: Path, layout: Layout) -> IsoplastError:
    size = file_size(path, layout.advice())
    found = digest(read_bytes(path, ""), "sha256").partition(":")[2]
    return IsoplastError(
        f"{path} is of no known edition of {layout.title}: delete it, or declare it in {MANIFEST}, there or "
        f'in {cache_folder()}, as "{path.name}": {{"bytes": {size}, "sha256": "{found}"}}'
    )
