"""Fashion-MNIST's files: those of MNIST by name, in folders of their own."""

from __future__ import annotations

import gzip
import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from isoplast._core.errors import IsoplastError
from isoplast.data import _mnist, load_data
from isoplast.data._editions import Edition
from isoplast.data._files import KnownFile

IMAGES = struct.pack(">4I", 0x803, 2, 1, 3) + bytes(range(6))
LABELS = struct.pack(">2I", 0x801, 2) + b"\x07\x02"


@pytest.fixture(autouse=True)
def small(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = (
        KnownFile(name, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")
        for name, content in zip(_mnist.FILES["train"], (IMAGES, LABELS), strict=True)
    )
    official = Edition.of("Fashion-MNIST", *known)
    installed = (tmp_path / "installed",)
    monkeypatch.setattr(
        _mnist, "FASHION", replace(_mnist.FASHION, official=official, installed=installed, url="file:///no/")
    )


@pytest.mark.parametrize("folder", ["fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "installed"])
def test_reads_the_layouts(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    for name, content in zip(_mnist.FILES["train"], (IMAGES, LABELS), strict=True):
        (tmp_path / folder / f"{name}.gz").write_bytes(gzip.compress(content))
    data = load_data("fashion-mnist", root=tmp_path)
    assert (data.note, data.targets.tolist()) == ("Fashion-MNIST", [7, 2])


@pytest.mark.parametrize("folder", [".", "mnist", "MNIST/raw"])
def test_files_of_mnist_are_not_looked_at(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in _mnist.FILES["train"]:
        (tmp_path / folder / name).write_bytes(b"digits")
    with pytest.raises(IsoplastError, match="cannot download"):
        load_data("fashion-mnist", root=tmp_path)
