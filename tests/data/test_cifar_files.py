"""CIFAR-10's reader on small files in the official layout, and on every way in which they can be damaged."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from isoplast._core.errors import IsoplastError
from isoplast.data import _cifar
from isoplast.data._files import KnownFile
from isoplast.streams import load_data

FOLDER = "cifar-10-batches-bin"


def records(count: int, seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    made = generator.integers(0, 256, (count, 3073), dtype=np.uint8)
    made[:, 0] = np.arange(count) % 10
    return made.tobytes()


BATCHES = {f"data_batch_{number}.bin": records(4, number) for number in range(1, 6)}
TEST_BATCH = {"test_batch.bin": records(3, 6)}
SMALL = {"data_batch_1.bin": records(4, 7), "test_batch.bin": records(2, 8)}


def archive(files: dict[str, bytes], compression: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:
        # The official archive holds its members in no useful order, with a text file among them.
        for name, content in [("batches.meta.txt", b"airplane\n"), *reversed(files.items())]:
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def known(name: str, content: bytes, algorithm: str) -> KnownFile:
    return KnownFile(name, len(content), f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}")


def edition(note: str, archive_file: KnownFile, files: dict[str, bytes], algorithm: str) -> _cifar.Edition:
    splits = {
        split: tuple(known(name, content, algorithm) for name, content in files.items() if prefix in name)
        for split, prefix in (("train", "data_batch"), ("test", "test_batch"))
    }
    return _cifar.Edition(note, archive_file, splits)


OFFICIAL_ARCHIVE = archive({**BATCHES, **TEST_BATCH}, "gz")
SUBSET_ARCHIVE = archive(SMALL, "xz")


@pytest.fixture(autouse=True)
def small_editions(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both editions, with made-up content of 20 + 3 and 4 + 2 images."""
    official = edition(
        "CIFAR-10",
        known("cifar-10-binary.tar.gz", OFFICIAL_ARCHIVE, "md5"),
        {**BATCHES, **TEST_BATCH},
        "md5",
    )
    subset = edition(
        "CIFAR-10 (JPEG subset)", known("cifar-10-subset.tar.xz", SUBSET_ARCHIVE, "sha256"), SMALL, "sha256"
    )
    monkeypatch.setattr(_cifar, "OFFICIAL", official)
    monkeypatch.setattr(_cifar, "EDITIONS", (official, subset))


def unpacked(root: Path, files: dict[str, bytes]) -> Path:
    folder = root / FOLDER
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def pixels(inputs: np.ndarray) -> np.ndarray:
    mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (_cifar.SOURCE.mean, _cifar.SOURCE.std))
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


@pytest.mark.parametrize("packed", [True, False])
def test_reads_the_subset(tmp_path: Path, packed: bool) -> None:
    if packed:
        (tmp_path / "cifar-10-subset.tar.xz").write_bytes(SUBSET_ARCHIVE)
    else:
        unpacked(tmp_path, SMALL)
    train, test = load_data("cifar10", root=tmp_path), load_data("cifar10", split="test", root=tmp_path)
    assert train.note == test.note == "CIFAR-10 (JPEG subset)"
    assert np.array_equal(pixels(train.inputs.numpy()), images(SMALL["data_batch_1.bin"]))
    assert np.array_equal(pixels(test.inputs.numpy()), images(SMALL["test_batch.bin"]))


def test_folder_before_official_before_subset(tmp_path: Path) -> None:
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
    assert "\n" not in message
    assert str(path) in message
    assert "delete" in message
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz" in message
    return message


@pytest.mark.parametrize(
    ("name", "content"),
    [("cifar-10-binary.tar.gz", OFFICIAL_ARCHIVE), ("cifar-10-subset.tar.xz", SUBSET_ARCHIVE)],
)
def test_damaged_archive(tmp_path: Path, name: str, content: bytes) -> None:
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
    """A complete, well-formed archive of other images: refused by its hash, before anything is unpacked."""

    def opened(*args: object, **kwargs: object) -> None:
        raise AssertionError("unpacked before it was verified")

    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(archive({name: records(30, 9) for name in BATCHES}, "gz"))
    monkeypatch.setattr(tarfile, "open", opened)
    assert "wrong hash md5:" in refused(tmp_path, path)


def test_unknown_folder(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, {"data_batch_1.bin": records(4, 99)})
    message = refused(tmp_path, folder / "data_batch_1.bin")
    assert "wrong hash" in message
    assert " or sha256:" in message  # both known editions are named


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
    folder = unpacked(tmp_path, {**BATCHES, "data_batch_2.bin": SMALL["data_batch_1.bin"]})
    assert "wrong hash" in refused(tmp_path, folder / "data_batch_2.bin")


def with_known_content(monkeypatch: pytest.MonkeyPatch, root: Path, content: bytes) -> Path:
    """A folder whose only batch has a known hash, whatever it holds."""
    files = {"data_batch_1.bin": content}
    only = edition("made up", known("none.tar.gz", b"", "md5"), files, "md5")
    only.splits["test"] = only.splits["train"]
    monkeypatch.setattr(_cifar, "EDITIONS", (only,))
    return unpacked(root, files) / "data_batch_1.bin"


def test_label_above_nine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(records(4, 1))
    content[2 * 3073] = 10
    path = with_known_content(monkeypatch, tmp_path, bytes(content))
    with pytest.raises(IsoplastError, match=rf"{path}: label 10 of image 2 is outside 0\.\.9"):
        load_data("cifar10", root=tmp_path)


@pytest.mark.parametrize("content", [records(4, 1)[:-1], b""])
def test_no_whole_number_of_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    path = with_known_content(monkeypatch, tmp_path, content)
    assert "no whole number of 3073-byte records" in refused(tmp_path, path)


def test_label_in_an_archive_is_named_with_its_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"data_batch_1.bin": b"\x0b" + records(1, 1)[1:]}
    packed = archive(files, "gz")
    only = edition("made up", known("cifar-10-binary.tar.gz", packed, "md5"), files, "md5")
    monkeypatch.setattr(_cifar, "EDITIONS", (only,))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(packed)
    expected = r"cifar-10-binary\.tar\.gz:cifar-10-batches-bin/data_batch_1\.bin: label 11 of image 0"
    with pytest.raises(IsoplastError, match=expected):
        load_data("cifar10", root=tmp_path)
