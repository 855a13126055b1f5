"""The real MNIST and CIFAR-10 files, where ISOPLAST_DATA names a folder that holds them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from isoplast.data import load_data

CIFAR_NAMES = ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", "cifar-10-subset.tar.xz")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of ISOPLAST_DATA; the subset of CIFAR-10 that may lie there is declared in the cache."""
    named = os.environ.get("ISOPLAST_DATA")
    if not named:
        pytest.skip("ISOPLAST_DATA is not set: no real data files to read")
    monkeypatch.setenv("ISOPLAST_CACHE", str(tmp_path))
    shutil.copy(Path(__file__).with_name("isoplast-data.json"), tmp_path)
    return Path(named)


def test_mnist(folder: Path) -> None:
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no folder mnist in {folder}")
    train, test = load_data("mnist"), load_data("mnist", split="test")
    assert train.inputs.shape == (60_000, 1, 28, 28)
    assert test.inputs.shape == (10_000, 1, 28, 28)
    # The published class counts.
    assert train.targets.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.targets.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # The constants are rounded to four digits.
    assert abs(train.inputs.mean().item()) < 1e-3
    assert abs(train.inputs.std().item() - 1) < 1e-3


def test_cifar10(folder: Path) -> None:
    if not any((folder / name).exists() for name in CIFAR_NAMES):
        pytest.skip(f"no CIFAR-10 in {folder}")
    test = load_data("cifar10", split="test")
    assert test.note in {"CIFAR-10", "CIFAR-10 (JPEG subset)"}
    assert test.inputs.shape[1:] == (3, 32, 32)
    assert len(set(test.targets.bincount().tolist())) == 1

    data = load_data("cifar10", samples=1000)
    assert data.targets.bincount().tolist() == [100] * 10
    # Between images the mean brightness varies by about .5 standard deviations, so the average over 1000 of
    # them is off by .5 / sqrt(1000) = .016; four of these. The subset's own constants add .02.
    assert data.inputs.mean(dim=(0, 2, 3)).abs().max() < 0.085
    assert data.inputs.std(dim=(0, 2, 3)).sub(1).abs().max() < 0.085
    # Pictures, not noise: neighbouring pixels agree. A wrong plane or row order would destroy this.
    for axis in (2, 3):
        differences = torch.diff(data.inputs, dim=axis)
        assert differences.std() < 0.5


def test_loading_twice_gives_the_same_bits(folder: Path) -> None:
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no folder mnist in {folder}")
    first, second = (load_data("mnist", samples=100, split="test") for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.inputs, second.inputs)
