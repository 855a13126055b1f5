"""Checkpoints of every layout open, hostile and damaged ones are one line, and no code runs."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.model import (
    checkpoint_history,
    has_normalisation,
    is_sharded,
    read_checkpoint,
    read_tensor,
    reconstruct,
    write_checkpoint,
)

safetensors = pytest.importorskip("safetensors.torch")


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(nn.Sequential(nn.Linear(300, 40), nn.ReLU(), nn.Linear(40, 10)).state_dict())


def adam_state() -> dict[str, Any]:
    return {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(40, 300)}}, "param_groups": []}


class Code:
    """A pickle of it runs a command when it is loaded without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


LAYOUTS = {
    (): lambda w: w,
    ("model",): lambda w: {"model": w, "optimizer": adam_state(), "epoch": 3},
    ("state_dict",): lambda w: {"epoch": 1, "state_dict": w, "best": torch.tensor(0.5)},
    ("trainer", "model"): lambda w: {"format": 1, "trainer": {"model": w, "optimizer": adam_state()}},
    ("model_state_dict",): lambda w: {"ema": dict(w), "model_state_dict": w},
}


@pytest.mark.parametrize("where", LAYOUTS, ids="/".join)
@pytest.mark.parametrize("zipped", [True, False])
def test_the_weights_are_found_wherever_they_lie(tmp_path: Path, where: Any, zipped: bool) -> None:
    file = tmp_path / "x.pt"
    torch.save(LAYOUTS[where](weights()), file, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(file)
    assert found.where == where
    assert list(found.tensors) == list(weights())
    assert all(torch.equal(found.tensors[name], value) for name, value in weights().items())


def test_safetensors_open_with_any_name(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.bin"):
        safetensors.save_file(weights(), tmp_path / name, {"format": "pt"})
        found = read_checkpoint(tmp_path / name)
        assert found.metadata == {"format": "pt"}
        assert torch.equal(found.tensors["0.weight"], weights()["0.weight"])


def test_a_network_in_several_files(tmp_path: Path) -> None:
    parts = {"a-1.safetensors": ["0.weight", "0.bias"], "a-2.safetensors": ["2.weight", "2.bias"]}
    for file, names in parts.items():
        safetensors.save_file({name: weights()[name] for name in names}, tmp_path / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (tmp_path / "a.safetensors.index.json").write_text(json.dumps(index))
    assert is_sharded(tmp_path)
    assert set(read_checkpoint(tmp_path).tensors) == set(weights())
    write_checkpoint(read_checkpoint(tmp_path), tmp_path / "new.pt")
    assert all(torch.equal(value, weights()[name]) for name, value in torch.load(tmp_path / "new.pt").items())


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ('{"weight_map": {"a": "../a.safetensors"}}', "no file beside it"),
        ('{"weight_map": {"a": ".."}}', "no file beside it"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "no file beside it"),
        ('{"weight_map": 3}', "is damaged"),
        ("{", "is damaged"),
    ],
)
def test_an_index_that_names_other_places(tmp_path: Path, contents: str, words: str) -> None:
    (tmp_path / "inner").mkdir()
    safetensors.save_file(weights(), tmp_path / "a.safetensors")
    (tmp_path / "inner" / "x.index.json").write_text(contents)
    with pytest.raises(IsoplastError, match=words):
        read_checkpoint(tmp_path / "inner")
    with pytest.raises(IsoplastError, match="is a directory: name one"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, zipped: bool, protocol: int) -> None:
    mark, file = tmp_path / "mark", tmp_path / "evil.pt"
    if zipped:
        torch.save({"model": weights(), "extra": Code(mark)}, file, pickle_protocol=max(protocol, 2))
    else:
        file.write_bytes(pickle.dumps({"extra": Code(mark)}, protocol))
    if zipped:  # a stand-in takes its place
        assert list(read_checkpoint(file).tensors) == list(weights())
    else:
        with pytest.raises(IsoplastError) as caught:
            read_checkpoint(file)
        assert "\n" not in str(caught.value)
    assert not mark.exists()
    with pytest.raises(IsoplastError):
        read_tensor(file)
    assert not mark.exists()
    # the file is armed: without care it runs
    if not zipped:
        pickle.loads(file.read_bytes())
        assert mark.exists()


def test_code_in_an_array_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    numpy.save(tmp_path / "evil.npy", numpy.array([Code(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(IsoplastError, match="no arrays of numbers"):
        read_tensor(tmp_path / "evil.npy")
    assert not mark.exists()


def half(contents: bytes) -> bytes:
    return contents[: len(contents) // 2]


def saved(value: Any, tmp_path: Path, **options: Any) -> bytes:
    torch.save(value, tmp_path / "whole", **options)
    return (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: half(saved(weights(), p)), "is truncated or damaged"),
        (
            lambda p: half(saved(weights(), p, _use_new_zipfile_serialization=False)),
            "is truncated or damaged",
        ),
        (lambda p: half(safetensors.save(weights())), "is truncated or damaged"),
        (lambda p: safetensors.save(weights())[:5], "is no checkpoint"),
        (lambda p: b"", "is no checkpoint"),
        (lambda p: b"hello", "is no checkpoint: neither a torch nor a safetensors file"),
        (lambda p: saved(Path("x"), p), "holds pathlib.PosixPath, no weights by name"),
        (lambda p: saved(torch.zeros(3, 3), p), "holds Tensor, no weights by name"),
        (lambda p: saved({"step": 3}, p), "holds no weight matrix (it holds step)"),
        (
            lambda p: saved({"b": torch.zeros(3), "i": torch.zeros(2, 2, dtype=torch.int64)}, p),
            "no weight matrix",
        ),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(tmp_path: Path, make: Any, words: str) -> None:
    file = tmp_path / "x.pt"
    file.write_bytes(make(tmp_path))
    with pytest.raises(IsoplastError) as caught:
        read_checkpoint(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_torchscript_program_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), file)
    with pytest.raises(IsoplastError, match="TorchScript program"):
        read_checkpoint(file)


def test_endless_nesting_ends(tmp_path: Path) -> None:
    deep: Any = weights()
    for _ in range(50):
        deep = {"in": deep}
    torch.save(deep, tmp_path / "x.pt")
    with pytest.raises(IsoplastError, match="holds no weight matrix"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("where", LAYOUTS, ids="/".join)
def test_a_torch_file_is_written_in_its_own_layout(tmp_path: Path, where: Any) -> None:
    torch.save(LAYOUTS[where](weights()), tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    found.state["0.weight"].zero_()
    write_checkpoint(found, tmp_path / "y.pt")
    before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("x.pt", "y.pt"))
    assert list(after) == list(before)
    again = read_checkpoint(tmp_path / "y.pt")
    assert again.where == where
    assert not again.state["0.weight"].any()
    assert torch.equal(again.state["2.weight"], weights()["2.weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pt", "y.pt"]  # nothing left aside


def test_safetensors_are_written_as_such(tmp_path: Path) -> None:
    safetensors.save_file(weights(), tmp_path / "x.safetensors", {"format": "pt"})
    write_checkpoint(read_checkpoint(tmp_path / "x.safetensors"), tmp_path / "y.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "x.pt")
    before = (tmp_path / "x.pt").read_bytes()
    with pytest.raises(IsoplastError, match="exists: choose another name"):
        write_checkpoint(read_checkpoint(tmp_path / "x.pt"), tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == before


def test_history_is_sorted_by_step_then_by_time(tmp_path: Path) -> None:
    for name in ("step-9.pt", "step-100.pt", "step-20.pt", "optimizer.pt", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [name for name, _ in checkpoint_history(tmp_path)] == ["step-9", "step-20", "step-100"]
    (tmp_path / "best.pt").write_bytes(b"")
    for age, name in enumerate(("step-100.pt", "best.pt", "step-9.pt", "step-20.pt")):
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    assert [name for name, _ in checkpoint_history(tmp_path)] == ["step-100", "best", "step-9", "step-20"]


def test_history_of_subdirectories(tmp_path: Path) -> None:
    for step in (500, 1000, 50):
        inner = tmp_path / f"checkpoint-{step}"
        inner.mkdir()
        for name in ("model.safetensors", "optimizer.pt", "training_args.bin"):
            (inner / name).write_bytes(b"")
    found = checkpoint_history(tmp_path)
    assert [name for name, _ in found] == ["checkpoint-50", "checkpoint-500", "checkpoint-1000"]
    assert found[0][1].name == "model.safetensors"
    (tmp_path / "empty").mkdir()
    with pytest.raises(IsoplastError, match="holds no checkpoint"):
        checkpoint_history(tmp_path / "empty")


def test_inputs_from_every_kind_of_file(tmp_path: Path) -> None:
    batch = torch.randn(5, 3)
    numpy.save(tmp_path / "x.npy", batch.double().numpy())
    torch.save(batch, tmp_path / "x.pt")
    torch.save({"inputs": batch, "targets": torch.zeros(5, 1)}, tmp_path / "two.pt")
    safetensors.save_file({"images": batch}, tmp_path / "x.safetensors")
    numpy.savez(tmp_path / "x.npz", batch.numpy())
    numpy.savez_compressed(tmp_path / "two.npz", inputs=batch.numpy(), targets=numpy.zeros(5))
    for name in ("x.npy", "x.pt", "two.pt", "x.safetensors", "x.npz", "two.npz"):
        found = read_tensor(tmp_path / name)
        assert found.dtype == torch.float32
        assert torch.equal(found, batch)
    torch.save({"a": batch, "b": batch}, tmp_path / "which.pt")
    with pytest.raises(IsoplastError, match="holds no batch of inputs"):
        read_tensor(tmp_path / "which.pt")


def test_a_chain_computes_what_its_network_computes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 7, bias=False), nn.ReLU())
    model.append(nn.Linear(7, 3))
    found = reconstruct(model.state_dict())
    assert found is not None
    inputs = torch.randn(5, 3, 4)
    assert torch.equal(found(inputs), model(inputs))
    assert found.names == ("1", "3", "5")


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(3, 3),
        nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 3)),
        nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 3)),
        nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3).double()),
    ],
)
def test_what_is_no_chain(model: nn.Module) -> None:
    assert reconstruct(model.state_dict()) is None


@pytest.mark.parametrize("names", [["norm1", "0"], ["ln_f", "0"], ["bn", "0"], ["layer1.0.bn2", "0"]])
def test_normalisations_are_known_by_name(names: list[str]) -> None:
    assert has_normalisation({f"{name}.weight": torch.ones(3) for name in names})
    assert not has_normalisation({"0.weight": torch.ones(3), "normal.weight": torch.ones(3)})


def test_keys_that_are_no_names_are_left_out(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.eye(4), 5: torch.eye(4)}, tmp_path / "x.pt")
    assert list(read_checkpoint(tmp_path / "x.pt").state) == ["layer.weight"]
