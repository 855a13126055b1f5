"""CIFAR-10's reader on small files in the official layout, and on every way in which they can be damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from isoplast._core.errors import IsoplastError
from isoplast.data import _cifar, load_data
from isoplast.data._editions import Edition
from isoplast.data._files import KnownFile

FOLDER = "cifar-10-batches-bin"


def records(count: int, seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    made = generator.integers(0, 256, (count, 3073), dtype=np.uint8)
    made[:, 0] = np.arange(count) % 10
    return made.tobytes()


BATCHES = {f"data_batch_{number}.bin": records(4, number) for number in range(1, 6)}
TEST_BATCH = {"test_batch.bin": records(3, 6)}
SMALL = {"data_batch_1.bin": records(4, 7), "test_batch.bin": records(2, 8)}


def archive(files: dict[str, bytes], compression: str, folder: str = FOLDER) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:
        # The official archive holds its members in no useful order, with a text file among them.
        for name, content in [("batches.meta.txt", b"airplane\n"), *reversed(files.items())]:
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def known(name: str, content: bytes, algorithm: str = "md5") -> KnownFile:
    return KnownFile(name, len(content), f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}")


def pickled(content: bytes, protocol: int = 2) -> bytes:
    """The same images as the python version holds them."""
    found = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    batch = {b"batch_label": b"one of five", b"labels": found[:, 0].tolist(), b"data": found[:, 1:].copy()}
    return pickle.dumps(batch, protocol=protocol)


PICKLES = {name.removesuffix(".bin"): pickled(content) for name, content in (BATCHES | TEST_BATCH).items()}
OFFICIAL_ARCHIVE = archive({**BATCHES, **TEST_BATCH}, "gz")
PYTHON_ARCHIVE = archive(PICKLES, "gz", "cifar-10-batches-py")
SUBSET_ARCHIVE = archive(SMALL, "xz")


@pytest.fixture(autouse=True)
def small_editions(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official edition with made-up content of 20 + 3 images; and nothing can be downloaded."""
    contents = {
        "cifar-10-binary.tar.gz": OFFICIAL_ARCHIVE,
        "cifar-10-python.tar.gz": PYTHON_ARCHIVE,
        **BATCHES,
        **TEST_BATCH,
        **PICKLES,
    }
    official = Edition.of("CIFAR-10", *(known(name, content) for name, content in contents.items()))
    monkeypatch.setattr(_cifar, "CIFAR10", dataclasses.replace(_cifar.CIFAR10, official=official))
    monkeypatch.setattr(_cifar, "_download", no_download)


def no_download(layout: _cifar.Layout, split: str) -> None:
    raise AssertionError("a download began")


def declare(folder: Path, files: dict[str, bytes], note: str = "CIFAR-10 (JPEG subset)") -> None:
    """A manifest that declares an edition."""
    said = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    folder.mkdir(exist_ok=True)
    text = json.dumps({"editions": [{"data": "cifar10", "edition": note, "files": said}]})
    (folder / "isoplast-data.json").write_text(text)


def unpacked(root: Path, files: dict[str, bytes], name: str = FOLDER) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def pixels(inputs: np.ndarray) -> np.ndarray:
    mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (_cifar.Cifar10.mean, _cifar.Cifar10.std))
    return ((inputs * std + mean) * 255).round()


def images(*files: bytes) -> np.ndarray:
    return np.frombuffer(b"".join(files), dtype=np.uint8).reshape(-1, 3073)[:, 1:].reshape(-1, 3, 32, 32)


@pytest.mark.parametrize("sub", [".", "cifar10"])
@pytest.mark.parametrize("packed", [True, False])
def test_reads_the_official_edition(tmp_path: Path, packed: bool, sub: str) -> None:
    root = tmp_path / sub
    root.mkdir(exist_ok=True)
    if packed:
        (root / "cifar-10-binary.tar.gz").write_bytes(OFFICIAL_ARCHIVE)
    else:
        unpacked(root, {**BATCHES, **TEST_BATCH})
    train, test = load_data("cifar10", root=tmp_path), load_data("cifar10", split="test", root=tmp_path)
    assert train.note == test.note == "CIFAR-10"
    assert train.targets.tolist() == [0, 1, 2, 3] * 5
    assert np.array_equal(pixels(train.inputs.numpy()), images(*BATCHES.values()))
    assert np.array_equal(pixels(test.inputs.numpy()), images(*TEST_BATCH.values()))


@pytest.mark.parametrize("sub", [".", "cifar10"])
@pytest.mark.parametrize("packed", [True, False])
def test_reads_the_python_version_that_torchvision_leaves(tmp_path: Path, packed: bool, sub: str) -> None:
    root = tmp_path / sub
    root.mkdir(exist_ok=True)
    if packed:
        (root / "cifar-10-python.tar.gz").write_bytes(PYTHON_ARCHIVE)
    else:
        unpacked(root, PICKLES, "cifar-10-batches-py")
    python = [load_data("cifar10", split=split, root=tmp_path) for split in ("train", "test")]
    unpacked(root, {**BATCHES, **TEST_BATCH})
    binary = [load_data("cifar10", split=split, root=tmp_path) for split in ("train", "test")]
    assert [one.fingerprint for one in python] == [one.fingerprint for one in binary]


@pytest.mark.parametrize("where", ["beside the files", "in the cache"])
@pytest.mark.parametrize("packed", [True, False])
def test_reads_an_edition_that_a_manifest_declares(
    tmp_path: Path, cache: Path, packed: bool, where: str
) -> None:
    if packed:
        (tmp_path / "cifar-10-subset.tar.xz").write_bytes(SUBSET_ARCHIVE)
        files = {"cifar-10-subset.tar.xz": SUBSET_ARCHIVE}
    else:
        unpacked(tmp_path, SMALL)
        files = SMALL
    declare(cache if where == "in the cache" else tmp_path, files)
    train, test = load_data("cifar10", root=tmp_path), load_data("cifar10", split="test", root=tmp_path)
    assert train.note == test.note == "CIFAR-10 (JPEG subset)"
    assert np.array_equal(pixels(train.inputs.numpy()), images(SMALL["data_batch_1.bin"]))
    assert np.array_equal(pixels(test.inputs.numpy()), images(SMALL["test_batch.bin"]))


def test_an_edition_of_pickles_in_order(tmp_path: Path) -> None:
    """Ten and more batches are joined in the order of their numbers, in any protocol of pickle."""
    files = {f"data_batch_{n}": pickled(records(1, n), protocol=2 + n % 4) for n in range(1, 13)}
    files["test_batch"] = pickled(records(1, 99))
    packed = archive(files, "gz", "cifar-10-batches-py")
    (tmp_path / "cifar-10-mine.tar.gz").write_bytes(packed)
    declare(tmp_path, {"cifar-10-mine.tar.gz": packed}, "mine")
    train = load_data("cifar10", root=tmp_path)
    assert np.array_equal(pixels(train.inputs.numpy()), images(*(records(1, n) for n in range(1, 13))))
    assert train.note == "mine"


def test_folder_before_official_before_declared(tmp_path: Path) -> None:
    declare(tmp_path, {"cifar-10-subset.tar.xz": SUBSET_ARCHIVE, **SMALL})
    (tmp_path / "cifar-10-subset.tar.xz").write_bytes(SUBSET_ARCHIVE)
    assert len(load_data("cifar10", root=tmp_path).inputs) == 4
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(OFFICIAL_ARCHIVE)
    assert len(load_data("cifar10", root=tmp_path).inputs) == 20
    unpacked(tmp_path, SMALL)
    assert len(load_data("cifar10", root=tmp_path).inputs) == 4


def refused(root: Path, path: Path) -> str:
    """The one line with which loading fails; it must name the file and say what to do."""
    with pytest.raises(IsoplastError) as error:
        load_data("cifar10", root=root)
    message = str(error.value)
    assert message.isprintable()
    assert path.name in message
    assert "delete" in message
    assert "isoplast-data.json" in message
    return message


@pytest.mark.parametrize(
    ("name", "content"),
    [("cifar-10-binary.tar.gz", OFFICIAL_ARCHIVE), ("cifar-10-subset.tar.xz", SUBSET_ARCHIVE)],
)
def test_damaged_archive(tmp_path: Path, name: str, content: bytes) -> None:
    declare(tmp_path, {"cifar-10-subset.tar.xz": SUBSET_ARCHIVE})
    path = tmp_path / name
    path.write_bytes(content[:-100])
    assert f"truncated, {len(content) - 100:,} of {len(content):,} bytes" in refused(tmp_path, path)
    path.write_bytes(b"")
    assert "truncated, 0 of" in refused(tmp_path, path)
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    path.write_bytes(bytes(damaged))
    assert "wrong hash" in refused(tmp_path, path)


def test_archive_of_unknown_content_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete, well-formed archive of other images: refused before anything is unpacked."""

    def opened(*args: object, **kwargs: object) -> None:
        raise AssertionError("unpacked before it was verified")

    other = archive({name: records(30, 9) for name in BATCHES}, "gz")
    monkeypatch.setattr(tarfile, "open", opened)
    for name, expected in (("cifar-10-binary.tar.gz", "wrong size"), ("cifar-10-own.tar.gz", "no known")):
        path = tmp_path / name
        path.write_bytes(other)
        message = refused(tmp_path, path)
        assert expected in message
        path.unlink()
    assert hashlib.sha256(other).hexdigest() in message  # what a manifest would say


@pytest.mark.parametrize("name", ["cifar-100-binary.tar.gz", "cifar-100-python.tar.gz", "cifar-100.tar"])
def test_an_archive_of_cifar100_says_nothing_of_cifar10(tmp_path: Path, cache: Path, name: str) -> None:
    cache.mkdir()
    for folder in (tmp_path, cache):
        (folder / name).write_bytes(b"of CIFAR-100")
    (cache / "cifar-10-binary.tar.gz").write_bytes(OFFICIAL_ARCHIVE)
    assert len(load_data("cifar10", root=tmp_path).targets) == 20


@pytest.mark.parametrize("name", ["cifar-10.tar", "cifar-10-own.tar.gz", "cifar-10_mine.tar.xz"])
def test_every_unknown_archive_of_cifar10_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"unknown")
    assert "no known edition" in refused(tmp_path, tmp_path / name)


def test_a_file_larger_than_any_known_one_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    assert "wrong size, 4,398,046,511,104 bytes" in refused(tmp_path, path)


@pytest.mark.parametrize(
    "name", ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz", *_cifar.CIFAR10.folders]
)
def test_a_link_to_nowhere_does_not_start_a_download(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path / "gone")
    assert "No such file" in refused(tmp_path, tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    os.mkfifo(path)  # reading it would wait for ever
    assert "it is no file" in refused(tmp_path, path)


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "{}",
        "[]",
        '{"editions": {}}',
        '{"editions": [{}]}',
        '{"editions": [{"data": "cifar10", "edition": "a", "files": []}]}',
        '{"editions": [{"data": "cifar10", "edition": "a", "files": {"b": "sha256:0"}}]}',
        '{"editions": [{"data": "cifar10", "edition": "a", "files": {"b": {"bytes": 1.5, "sha256": "0"}}}]}',
        '{"editions": [{"data": "cifar10", "edition": "a", "files": {"b": {"bytes": 1, "sha256": "0x"}}}]}',
        "[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str) -> None:
    unpacked(tmp_path, {**BATCHES, **TEST_BATCH})
    (tmp_path / "isoplast-data.json").write_text(content)
    with pytest.raises(IsoplastError, match=r"isoplast-data\.json") as error:
        load_data("cifar10", root=tmp_path)
    assert str(error.value).isprintable()


def test_a_manifest_of_other_data_changes_nothing(tmp_path: Path) -> None:
    unpacked(tmp_path, {**BATCHES, **TEST_BATCH})
    text = (tmp_path / "isoplast-data.json").write_text
    text('{"editions": [{"data": "mnist", "edition": "a", "files": {}}]}')
    assert load_data("cifar10", root=tmp_path).note == "CIFAR-10"


def test_unknown_folder(tmp_path: Path) -> None:
    declare(tmp_path, SMALL)
    folder = unpacked(tmp_path, {"data_batch_1.bin": records(4, 99)})
    message = refused(tmp_path, folder / "data_batch_1.bin")
    assert "wrong hash" in message
    assert " or sha256:" in message  # both known editions are named


def test_unknown_folder_of_pickles(tmp_path: Path) -> None:
    """Never unpickled: its hash is unknown."""
    folder = unpacked(tmp_path, {"data_batch_1": b"cos\nsystem\n(S'touch owned'\ntR."}, "cifar-10-batches-py")
    assert "truncated" in refused(tmp_path, folder / "data_batch_1")


def test_folder_with_a_truncated_first_file(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, {**BATCHES, "data_batch_1.bin": BATCHES["data_batch_1.bin"][:-1]})
    assert "truncated, 12,291 of 12,292 bytes" in refused(tmp_path, folder / "data_batch_1.bin")


def test_folder_with_a_damaged_later_file(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, {**BATCHES, "data_batch_4.bin": BATCHES["data_batch_3.bin"]})
    assert "wrong hash" in refused(tmp_path, folder / "data_batch_4.bin")


def test_folder_with_a_missing_file(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, BATCHES)
    (folder / "data_batch_5.bin").unlink()
    assert "cannot be read (No such file or directory)" in refused(tmp_path, folder / "data_batch_5.bin")


def test_folder_that_mixes_editions(tmp_path: Path) -> None:
    declare(tmp_path, SMALL)
    folder = unpacked(tmp_path, {**BATCHES, "data_batch_2.bin": SMALL["data_batch_1.bin"]})
    assert "wrong hash" in refused(tmp_path, folder / "data_batch_2.bin")


def test_label_above_nine(tmp_path: Path) -> None:
    content = bytearray(records(4, 1))
    content[2 * 3073] = 10
    for files, folder in (
        ({"data_batch_1.bin": bytes(content)}, FOLDER),
        ({"data_batch_1": pickled(bytes(content))}, "cifar-10-batches-py"),
    ):
        root = tmp_path / folder
        root.mkdir()
        declare(root, files)
        unpacked(root, files, folder)
        with pytest.raises(IsoplastError, match=r"data_batch_1\S*: label 10 of image 2 is outside 0\.\.9"):
            load_data("cifar10", root=root)


@pytest.mark.parametrize("content", [records(4, 1)[:-1], b""])
def test_no_whole_number_of_records(tmp_path: Path, content: bytes) -> None:
    declare(tmp_path, {"data_batch_1.bin": content})
    path = unpacked(tmp_path, {"data_batch_1.bin": content}) / "data_batch_1.bin"
    assert "no whole number of 3073-byte records" in refused(tmp_path, path)


class Owned:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch owned",)


@pytest.mark.parametrize(
    "batch",
    [
        Owned(),
        {b"data": Owned(), b"labels": [0]},
        {b"data": np.zeros((1, 3072), np.float32), b"labels": [0]},
        {b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": ["a"]},
        {b"data": np.array([None]), b"labels": [0]},
        {b"data": np.zeros((0, 3072), np.uint8), b"labels": []},
        {b"labels": [0]},
        {b"\xff": 0},
        [1, 2],
    ],
    ids=lambda batch: str(batch)[:20],
)
def test_a_declared_pickle_that_is_no_batch(
    tmp_path: Path, batch: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even of a declared hash nothing is executed."""
    monkeypatch.chdir(tmp_path)
    files = {"data_batch_1": pickle.dumps(batch)}
    declare(tmp_path, files)
    path = unpacked(tmp_path, files, "cifar-10-batches-py") / "data_batch_1"
    assert "no batch of CIFAR-10" in refused(tmp_path, path)
    assert not (tmp_path / "owned").exists()


def test_label_in_an_archive_is_named_with_its_member(tmp_path: Path) -> None:
    packed = archive({"data_batch_1.bin": b"\x0b" + records(1, 1)[1:]}, "gz")
    declare(tmp_path, {"cifar-10-own.tar.gz": packed})
    (tmp_path / "cifar-10-own.tar.gz").write_bytes(packed)
    with pytest.raises(IsoplastError, match=r"cifar-10-own\.tar\.gz:data_batch_1\.bin: label 11 of image 0"):
        load_data("cifar10", root=tmp_path)


@pytest.mark.parametrize(
    "content", [b"no archive", archive({"other.bin": b"1"}, "gz"), archive(SMALL, "gz")[:-200]]
)
def test_a_declared_archive_without_batches(tmp_path: Path, content: bytes) -> None:
    declare(tmp_path, {"cifar-10-own.tar.gz": content})
    path = tmp_path / "cifar-10-own.tar.gz"
    path.write_bytes(content)
    refused(tmp_path, path)
