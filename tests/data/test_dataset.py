"""Arrays of one's own as a data set: which are taken, as what, and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset, load_data
from isoplast.streams import stream


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_whole_targets_are_classes(dtype: torch.dtype) -> None:
    data = Dataset(torch.zeros(4, 2, dtype=torch.float64), torch.tensor([0, 2, 1, 0], dtype=dtype))
    assert data.inputs.dtype == torch.float32
    assert data.targets.dtype == torch.int64
    assert data.classes == 3
    assert Dataset(torch.zeros(4, 2), data.targets, classes=10).classes == 10


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3)])
def test_floating_targets_are_a_regression(shape: tuple[int, ...]) -> None:
    data = Dataset(np.zeros((4, 2)), np.ones(shape))
    assert data.classes is None
    assert data.targets.dtype == torch.float32
    assert data.targets.shape == (shape if len(shape) > 1 else (*shape, 1))
    with pytest.raises(
        IsoplastError, match="random-labels needs a class for each sample, and data 'arrays' have none"
    ):
        stream("random-labels", data, tasks=2, seed=0)


def test_tokens_stay_whole_numbers() -> None:
    tokens = torch.arange(12, dtype=torch.int32).reshape(4, 3)
    data = Dataset(tokens, tokens, classes=50)
    assert data.inputs.dtype == data.targets.dtype == torch.int64
    assert data.classes == 50


def test_a_parameter_does_not_carry_its_graph_along() -> None:
    weights = torch.nn.Parameter(torch.zeros(4, 2))
    assert not Dataset(weights * 2, torch.zeros(4)).inputs.requires_grad


@pytest.mark.parametrize(
    ("inputs", "targets", "more", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(3), {}, r"inputs \(4, 2\) and targets \(3, 1\)"),
        (torch.zeros(4), torch.zeros(4), {}, r"inputs \(4,\) and targets \(4, 1\)"),
        (torch.zeros(4, 2), torch.tensor(0), {}, r"targets \(\)"),
        (torch.zeros(0, 2), torch.zeros(0), {}, "at least one of each"),
        (torch.zeros(4, 2, dtype=torch.uint8), torch.zeros(4), {}, "inputs are uint8: make them floating"),
        (torch.zeros(4, 2, dtype=torch.bool), torch.zeros(4), {}, "inputs are bool"),
        (torch.zeros(4, 2, dtype=torch.complex64), torch.zeros(4), {}, "inputs are complex64"),
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.bool), {}, "targets are bool"),
        (torch.tensor([[0.0], [np.nan]]), torch.zeros(2), {}, "inputs hold numbers that are not finite"),
        (torch.zeros(2, 1), torch.tensor([0, np.inf]), {}, "targets hold numbers that are not finite"),
        (torch.zeros(2, 1), torch.tensor([0, -1]), {}, "targets reach from -1 to 0"),
        (
            torch.zeros(2, 1),
            torch.tensor([0, 3]),
            {"classes": 3},
            "targets reach from 0 to 3: classes are 0 to 2",
        ),
        (torch.zeros(2, 1), torch.zeros(2), {"classes": 3}, "classes=3 of data 'arrays'"),
        (np.array([["a"]]), torch.zeros(1), {}, "inputs are no array of numbers"),
        ([[1.0], [1.0, 2.0]], torch.zeros(2), {}, "inputs are no array of numbers"),
    ],
)
def test_other_arrays_are_refused(inputs: Any, targets: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(IsoplastError, match=message):
        Dataset(inputs, targets, **more)


def test_take_is_balanced_for_classes_and_the_first_of_a_regression() -> None:
    inputs = torch.arange(10.0)[:, None]
    classes = Dataset(inputs, torch.tensor([0, 0, 0, 1, 2, 0, 1, 2, 0, 0]), name="mine")
    assert classes.take(4).inputs.flatten().tolist() == [0, 1, 3, 4]
    assert classes.take(4).classes == 3
    assert classes.take(10) is classes
    assert Dataset(inputs, inputs).take(4).inputs.flatten().tolist() == [0, 1, 2, 3]
    for samples in (0, -1, 11):
        with pytest.raises(IsoplastError, match=f"samples={samples} of data 'mine', which has 10 samples"):
            classes.take(samples)


def test_the_fingerprint_is_that_of_the_content() -> None:
    inputs, targets = torch.rand(6, 2), torch.arange(6)
    data = Dataset(inputs, targets)
    assert Dataset(inputs.numpy(), targets.numpy(), name="other").fingerprint == data.fingerprint
    others = [
        Dataset(inputs + 1, targets),
        Dataset(inputs, targets.flip(0)),
        Dataset(inputs.reshape(6, 1, 2), targets),
        Dataset(inputs, targets.float()),
        data.take(5),
    ]
    assert len({one.fingerprint for one in [data, *others]}) == 6


def arrays() -> dict[str, torch.Tensor]:
    return {
        "inputs": torch.arange(12.0).reshape(6, 2),
        "targets": torch.tensor([0, 1, 2, 0, 1, 2]),
        "test_inputs": torch.ones(2, 2),
        "test_targets": torch.tensor([1, 0]),
    }


def write(path: Path, contents: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in contents.items()})
    else:
        save_file(contents, path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_of_ones_own(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"mine{suffix}", arrays())
    data = load_data("file", path=str(path))
    assert (data.name, data.note, data.classes) == ("mine", f"mine{suffix}", 3)
    assert torch.equal(data.inputs, arrays()["inputs"])
    test = load_data("file", path=str(path), split="test", classes=5)
    assert (test.targets.tolist(), test.classes) == ([1, 0], 5)
    assert load_data("file", path=str(path), samples=3).targets.tolist() == [0, 1, 2]


def test_a_file_is_found_from_here_and_where_data_lies(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(IsoplastError, match=r"data file 'mine\.npz' is not there: give its path"):
        load_data("file", path="mine.npz")
    write(there / "mine.npz", arrays())
    monkeypatch.setenv("ISOPLAST_DATA", str(there))
    assert len(load_data("file", path="mine.npz").inputs) == 6
    write(here / "mine.npz", {name: value[:2] for name, value in arrays().items()})
    assert len(load_data("file", path="mine.npz").inputs) == 2
    assert len(load_data("file", path="mine.npz", root=there).inputs) == 6


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"inputs": torch.zeros(2, 2)}, "has no array 'targets', only inputs"),
        ({"x": torch.zeros(2, 2), "y": torch.zeros(2)}, "has no array 'inputs', only x, y"),
        ({"inputs": torch.zeros(2, 2), "targets": torch.zeros(3)}, "one target for each input"),
    ],
)
def test_a_file_without_data_is_refused(
    tmp_path: Path, contents: dict[str, torch.Tensor], message: str
) -> None:
    path = write(tmp_path / "mine.npz", contents)
    with pytest.raises(IsoplastError, match=rf"mine\.npz.*{message}"):
        load_data("file", path=str(path))


def test_a_file_without_a_test_split_says_what_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.npz", {name: arrays()[name] for name in ("inputs", "targets")})
    with pytest.raises(IsoplastError, match="has no array 'test_inputs', only inputs, targets"):
        load_data("file", path=str(path), split="test")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_damaged_file_and_a_link_to_nowhere(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"mine{suffix}", arrays())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(IsoplastError, match="truncated or damaged"):
        load_data("file", path=str(path))
    path.unlink()
    path.symlink_to("gone")
    with pytest.raises(IsoplastError, match="there is no file"):
        load_data("file", path=str(path))
