"""CIFAR-100's reader on small files in the official layout."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from isoplast._core.errors import IsoplastError
from isoplast.data import Cifar100, _cifar, load_data
from isoplast.data._editions import Edition
from isoplast.data._files import KnownFile

RECORD = 3074


def records(count: int, seed: int) -> bytes:
    """Coarse label, fine label, pixels."""
    made = np.random.default_rng(seed).integers(0, 256, (count, RECORD), dtype=np.uint8)
    made[:, 0] = np.arange(count) % 20
    made[:, 1] = 99 - np.arange(count) % 100
    return made.tobytes()


def pickled(content: bytes) -> bytes:
    found = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    batch = {
        b"coarse_labels": found[:, 0].tolist(),
        b"fine_labels": found[:, 1].tolist(),
        b"data": found[:, 2:].copy(),
    }
    return pickle.dumps(batch, protocol=2)


def archive(files: dict[str, bytes], folder: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in [("fine_label_names.txt", b"apple\n"), *files.items()]:
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


BINARY = {"train.bin": records(7, 1), "test.bin": records(3, 2)}
PYTHON = {name.removesuffix(".bin"): pickled(content) for name, content in BINARY.items()}
ARCHIVES = {
    "cifar-100-binary.tar.gz": archive(BINARY, "cifar-100-binary"),
    "cifar-100-python.tar.gz": archive(PYTHON, "cifar-100-python"),
}


@pytest.fixture(autouse=True)
def small_edition(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {**ARCHIVES, **BINARY, **PYTHON}
    known = (
        # Of the official pickle of the test images only the hash was published.
        KnownFile(name, None if name == "test" else len(content), f"md5:{hashlib.md5(content).hexdigest()}")
        for name, content in contents.items()
    )
    layout = dataclasses.replace(_cifar.CIFAR100, official=Edition.of("CIFAR-100", *known))
    monkeypatch.setattr(_cifar, "CIFAR100", layout)


def put(root: Path, form: str) -> None:
    if form in ARCHIVES:
        (root / form).write_bytes(ARCHIVES[form])
        return
    (root / form).mkdir()
    for name, content in (BINARY if form.endswith("binary") else PYTHON).items():
        (root / form / name).write_bytes(content)


@pytest.mark.parametrize("sub", [".", "cifar100"])
@pytest.mark.parametrize("form", [*ARCHIVES, "cifar-100-binary", "cifar-100-python"])
def test_reads_fine_labels_and_pixels_of_every_official_form(tmp_path: Path, form: str, sub: str) -> None:
    (tmp_path / sub).mkdir(exist_ok=True)
    put(tmp_path / sub, form)
    for split, name, count in (("train", "train.bin", 7), ("test", "test.bin", 3)):
        data = load_data("cifar100", split=split, root=tmp_path)
        assert data.classes == 100
        assert data.targets.tolist() == [99 - index for index in range(count)]
        mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (Cifar100.mean, Cifar100.std))
        found = ((data.inputs.numpy() * std + mean) * 255).round()
        wanted = np.frombuffer(BINARY[name], np.uint8).reshape(-1, RECORD)[:, 2:].reshape(-1, 3, 32, 32)
        assert np.array_equal(found, wanted)
        assert data.note == "CIFAR-100"


@pytest.mark.parametrize(("form", "name"), [("cifar-100-binary", "train.bin"), ("cifar-100-python", "train")])
def test_a_changed_byte_is_refused(tmp_path: Path, form: str, name: str) -> None:
    put(tmp_path, form)
    content = bytearray((tmp_path / form / name).read_bytes())
    content[100] ^= 1
    (tmp_path / form / name).write_bytes(bytes(content))
    with pytest.raises(IsoplastError, match=r"wrong hash .* fetch .*cifar-100-binary.tar.gz again"):
        load_data("cifar100", root=tmp_path)


def test_a_pickle_of_which_only_the_hash_is_known_is_refused_by_it(tmp_path: Path) -> None:
    put(tmp_path, "cifar-100-python")
    (tmp_path / "cifar-100-python" / "test").write_bytes(pickled(records(4, 5)))
    with pytest.raises(IsoplastError, match="wrong hash"):
        load_data("cifar100", split="test", root=tmp_path)


def test_cifar10_and_cifar100_do_not_get_into_each_others_way(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-own.tar.gz").write_bytes(b"unknown")
    put(tmp_path, "cifar-100-binary")
    assert len(load_data("cifar100", root=tmp_path).targets) == 7


def test_is_fetched_from_the_official_place() -> None:
    assert _cifar.URL + _cifar.CIFAR100.archive.name == (
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
    )
