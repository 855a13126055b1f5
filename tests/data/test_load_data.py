from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.data import _digits
from isoplast.data import _load as module
from isoplast.data._raw import Raw, Source
from isoplast.streams import data_names, load_data

LABELS = np.array([0, 0, 0, 1, 2, 0, 1, 2, 0, 0], dtype=np.uint8)  # 6 of class 0, 2 of 1, 2 of 2


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten 2-channel images of 1x1 pixels; pixel values count up."""

    def read(split: str, root: Path | None) -> Raw:
        return Raw(np.arange(20, dtype=np.uint8).reshape(10, 2, 1, 1), LABELS, "made up")

    source = Source(read=read, classes=3, peak=10.0, mean=(0.5, 1.0), std=(0.25, 0.5))
    monkeypatch.setitem(module._SOURCES, "made-up", source)


def chosen(samples: int) -> list[int]:
    """Which images `samples` picks, told from their pixels."""
    inputs = load_data("made-up", samples=samples).inputs[:, 0, 0, 0]
    return ((inputs * 0.25 + 0.5) * 10 / 2).round().int().tolist()


def test_standardises_each_channel(made_up: None) -> None:
    inputs = load_data("made-up").inputs
    assert inputs.dtype == torch.float32
    assert inputs.shape == (10, 2, 1, 1)
    # Image 3 holds pixels 6 and 7: (.6 - .5) / .25 and (.7 - 1) / .5; float32 rounds at 1e-7.
    torch.testing.assert_close(inputs[3].flatten(), torch.tensor([0.4, -0.6]), rtol=1e-6, atol=1e-6)


def test_targets_and_provenance(made_up: None) -> None:
    data = load_data("made-up")
    assert data.targets.dtype == torch.int64
    assert data.targets.tolist() == LABELS.tolist()
    assert (data.name, data.classes, data.note) == ("made-up", 3, "made up")


def test_samples_are_balanced_as_far_as_the_classes_reach(made_up: None) -> None:
    assert chosen(1) == [0]
    assert chosen(3) == [0, 3, 4]
    assert chosen(4) == [0, 1, 3, 4]
    assert chosen(6) == [0, 1, 3, 4, 6, 7]
    assert chosen(7) == [0, 1, 2, 3, 4, 6, 7]  # classes 1 and 2 are used up
    assert chosen(10) == list(range(10))


def test_samples_are_nested_and_ignore_random_states(made_up: None) -> None:
    torch.manual_seed(0)
    first = chosen(5)
    torch.manual_seed(1)
    assert chosen(5) == first
    assert set(first) < set(chosen(6))


def test_fingerprint_names_exactly_these_images(made_up: None) -> None:
    assert load_data("made-up").fingerprint == load_data("made-up", samples=10).fingerprint
    assert load_data("made-up").fingerprint != load_data("made-up", samples=9).fingerprint


@pytest.mark.parametrize("samples", [0, -1, 11])
def test_refuses_samples_out_of_range(made_up: None, samples: int) -> None:
    with pytest.raises(IsoplastError, match=f"samples={samples} of data 'made-up'"):
        load_data("made-up", samples=samples)


def test_suggests_the_nearest_name_and_split() -> None:
    with pytest.raises(IsoplastError, match="unknown data 'cifar': did you mean 'cifar10'"):
        load_data("cifar")
    with pytest.raises(IsoplastError, match="unknown split 'tests': did you mean 'test'"):
        load_data("digits", split="tests")


def test_lists_what_it_knows() -> None:
    assert data_names() == ["cifar10", "digits", "mnist"]


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_digits, "find_spec", lambda name: None)
    with pytest.raises(IsoplastError, match=r"pip install 'isoplast\[bench\]'"):
        load_data("digits")


def test_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    for split, part in (("train", slice(None, 1437)), ("test", slice(1437, None))):
        raw = _digits.read(split, None)
        assert (raw.images[:, 0] == digits.images[part]).all()
        assert (raw.labels == digits.target[part]).all()


def test_digits() -> None:
    pytest.importorskip("sklearn")
    train, test = load_data("digits"), load_data("digits", split="test")
    assert train.inputs.shape == (1437, 1, 8, 8)
    assert test.inputs.shape == (360, 1, 8, 8)
    # The constants are rounded to four digits.
    assert abs(train.inputs.mean().item()) < 1e-3
    assert abs(train.inputs.std().item() - 1) < 1e-3
    demo = load_data("digits", samples=1280)
    assert demo.targets.bincount().tolist() == [128] * 10
    assert len(demo.inputs.flatten(1).unique(dim=0)) == 1280
