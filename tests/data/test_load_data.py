from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.data import (
    Dataset,
    DataSpec,
    Digits,
    data_names,
    data_reference,
    data_spec,
    load_data,
    register_data,
)
from isoplast.data import _spec as module
from isoplast.data._images import Images, Raw

LABELS = np.array([0, 0, 0, 1, 2, 0, 1, 2, 0, 0], dtype=np.uint8)  # 6 of class 0, 2 of 1, 2 of 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeUp(Images):
    """Ten 2-channel images of 1x1 pixels; pixel values count up."""

    name = "made-up"
    classes = 3
    peak = 10.0
    mean = (0.5, 1.0)
    std = (0.25, 0.5)

    def raw(self, split: str, root: Path | None) -> Raw:
        return Raw(np.arange(20, dtype=np.uint8).reshape(10, 2, 1, 1), LABELS, "made up")


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.DATA._known, "made-up", MadeUp)


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
    with pytest.raises(IsoplastError, match="unknown data set 'cifar': did you mean 'cifar10'"):
        load_data("cifar")
    with pytest.raises(IsoplastError, match="unknown split 'tests': did you mean 'test'"):
        load_data("digits", split="tests")


def test_lists_what_it_knows() -> None:
    assert data_names() == ["cifar10", "cifar100", "digits", "fashion-mnist", "file", "mnist", "text"]


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(IsoplastError, match=r"pip install 'isoplast\[bench\]'"):
        load_data("digits")


def test_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    for split, part in (("train", slice(None, 1437)), ("test", slice(1437, None))):
        raw = Digits().raw(split, None)
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
    # Results recorded before name their data by this hash.
    assert demo.fingerprint.startswith("5dcf99a7564d")


def test_a_specification_is_a_value() -> None:
    spec = data_spec("cifar10", samples=np.int64(1000))
    assert spec == data_spec("cifar10", samples=1000)
    assert hash(spec) == hash(data_spec("cifar10", samples=1000))
    assert spec != data_spec("cifar10")
    assert spec != data_spec("mnist", samples=1000)
    assert spec.settings() == (("samples", 1000),)
    assert data_spec("digits").settings() == ()
    assert data_spec(data_reference(spec), **dict(spec.settings())) == spec


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cifar10", {"sample": 10}, "unknown setting of data cifar10 'sample': did you mean 'samples'"),
        ("cifar10", {"samples": "10"}, "samples of data cifar10 is '10': it must be a whole number"),
        ("cifar10", {"samples": True}, "samples of data cifar10 is True: it must be a whole number"),
        ("mnist", {"samples": 0}, "samples=0 of data 'mnist': ask for at least 1"),
        ("digits", {"path": "a.npz"}, "unknown setting of data digits 'path'"),
        ("file", {}, "data file needs the setting 'path'"),
        ("file", {"path": 3}, "path of data file is 3: it must be a word"),
        ("file", {"path": "a.csv"}, "data file 'a.csv': its name must end in .npz or .safetensors"),
        ("json:loads", {}, "must be a class derived from isoplast.data.DataSpec"),
        ("nowhere:Data", {}, "nowhere cannot be imported"),
    ],
)
def test_wrong_settings_are_found_before_anything_is_read(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(IsoplastError, match=message.replace(".", r"\.")):
        data_spec(name, **settings)


MODULE = """
import dataclasses
import torch
from isoplast.data import Dataset, DataSpec

@dataclasses.dataclass(frozen=True, kw_only=True)
class Waves(DataSpec):
    frequency: float = 1.0

    def read(self, split, root):
        x = torch.linspace(0, 1, 20 if split == "train" else 5)[:, None]
        return Dataset(x, torch.sin(self.frequency * x), name="waves")
"""


def test_data_of_ones_own_by_module_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_waves.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    spec = data_spec("my_waves:Waves", frequency=2, samples=7)
    assert spec.settings() == (("frequency", 2.0), ("samples", 7))
    data = spec.load()
    assert data.classes is None
    assert data.inputs.shape == data.targets.shape == (7, 1)
    assert len(load_data("my_waves:Waves", split="test").inputs) == 5
    assert data_reference(spec) == "my_waves:Waves"
    with pytest.raises(IsoplastError, match="unknown setting of data my_waves:Waves 'freq': did you mean"):
        data_spec("my_waves:Waves", freq=1)


def test_data_of_ones_own_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.DATA, "_known", dict(module.DATA._known))

    @register_data
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mine(DataSpec):
        name = "mine"

        def read(self, split: str, root: Path | None) -> Dataset:
            return Dataset(torch.zeros(3, 2), torch.tensor([0, 1, 1]))

    assert load_data("mine").classes == 2
    assert "mine" in data_names()
    with pytest.raises(IsoplastError, match="where no other process finds it"):
        data_reference(Mine())
