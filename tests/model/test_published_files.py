"""Files as people have them: several networks, averages, objects beside weights, archives, folders."""

from __future__ import annotations

import argparse
import collections
import enum
import io
import os
import pathlib
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from isoplast._core.errors import IsoplastError
from isoplast.model import NoWeights, read_checkpoint


def network(width: int = 8) -> nn.Sequential:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))


def read(contents: Any, folder: Path) -> Any:
    torch.save(contents, folder / "x.pt")
    return read_checkpoint(folder / "x.pt")


def trained() -> dict[str, Any]:
    net = network()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    return {"net": net.state_dict(), "optim": optimizer.state_dict()}


LAYOUTS: dict[str, tuple[Any, set[tuple[Any, ...]]]] = {
    "actor and critic": (
        {"actor": network().state_dict(), "critic": network(6).state_dict(), "step": 3},
        {("actor",), ("critic",)},
    ),
    "a list": (
        {"members": [network().state_dict(), network(6).state_dict()]},
        {("members", 0), ("members", 1)},
    ),
    "a tuple": ((network().state_dict(), 3, "x"), {(0,)}),
    "nested": ({"agents": {"a": {"policy": network().state_dict()}}}, {("agents", "a", "policy")}),
    "with an optimizer": (trained(), {("net",)}),
    "optimizer in a list": ({"m": network().state_dict(), "all": [trained()["optim"]]}, {("m",)}),
    "names of one's own": ({"W1": torch.randn(4, 8), "W2": torch.randn(8, 2)}, {()}),
    "statistics beside": (
        {"model": network().state_dict(), "obs": {"mean": torch.randn(9, 9)}},
        {("model",)},
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_networks_are_found_and_nothing_else(tmp_path: Path, name: str) -> None:
    contents, where = LAYOUTS[name]
    assert {one.where for one in read(contents, tmp_path).networks} == where


@pytest.mark.parametrize("prefix", ["ema", "model_ema", "averaged_model", "swa", "target_network"])
def test_an_average_is_known_by_its_name_and_shapes(tmp_path: Path, prefix: str) -> None:
    found = read({prefix: network().state_dict(), "policy": network().state_dict()}, tmp_path).networks
    assert [(one.where, one.average_of) for one in found] == [(("policy",), None), ((prefix,), ("policy",))]


def test_an_average_by_torch_and_one_of_another_network(tmp_path: Path) -> None:
    average = AveragedModel(network()).state_dict()
    found = read(
        {"a": average, "b": network().state_dict(), "ema": network(6).state_dict()}, tmp_path
    ).networks
    assert {one.where: one.average_of for one in found} == {("b",): None, ("a",): ("b",), ("ema",): None}


class Colour(enum.Enum):
    RED = 1


class Settings:
    def __init__(self) -> None:
        self.lr, self.inner = 1e-3, {"a": [1]}


class Attributes(dict[str, Any]):
    pass


OBJECTS: dict[str, Any] = {
    "numpy number": np.float32(0.5),
    "numpy array": np.arange(3),
    "array of objects": np.array([None, "x"], dtype=object),
    "Namespace": argparse.Namespace(lr=1e-3, net=argparse.Namespace(depth=2)),
    "Path": pathlib.PurePosixPath("runs/1"),
    "defaultdict": collections.defaultdict(list, loss=[1.0]),
    "deque": collections.deque([1, 2]),
    "enum": Colour.RED,
    "enum as key": {Colour.RED: 1},
    "class": Settings,
    "object": Settings(),
    "objects in a list": [Settings(), Colour.RED],
    "mapping of one's own": Attributes(a=1),
    "function": os.getcwd,
    "range": range(3),
    "frozenset": frozenset((1, 2)),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_beside_weights_are_stood_in_for(
    tmp_path: Path, name: str, zipped: bool, protocol: int
) -> None:
    file = tmp_path / "x.pt"
    contents = {"extra": OBJECTS[name], "model": network().state_dict(), "behind": OBJECTS[name]}
    torch.save(contents, file, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(file)
    assert found.where == ("model",)
    assert all(torch.equal(found.tensors[key], value) for key, value in network().state_dict().items())


def test_weights_inside_such_objects_are_found(tmp_path: Path) -> None:
    state = network().state_dict()
    for contents in (
        Attributes(net=state),
        argparse.Namespace(net=state),
        collections.defaultdict(dict, net=state),
    ):
        found = read(contents, tmp_path)
        assert found.where == ("net",)
        assert torch.equal(found.tensors["0.weight"], state["0.weight"])


def test_a_pickled_module_gives_its_state_dict(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": network(), "b": nn.BatchNorm1d(3)})
    model["tied"] = model["a"][0]
    found = read({"model": model}, tmp_path)
    assert found.where == ("model",)
    assert found.tensors.keys() <= model.state_dict().keys()
    assert {"a.0.weight", "a.2.bias", "b.running_mean"} <= found.tensors.keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.tensors.items())


HIDDEN: dict[str, tuple[dict[str, Tensor], str]] = {
    "gptq": (
        {"a.qweight": torch.ones(4, 8, dtype=torch.int32), "a.scales": torch.rand(4, 4).half()},
        "packed",
    ),
    "int8": ({"a.weight": torch.ones(4, 8, dtype=torch.int8), "a.SCB": torch.rand(4, 1)}, "packed in int8"),
    "fp8": (
        {"a.weight": torch.ones(4, 8).to(torch.float8_e5m2), "a.weight_scale": torch.rand(4, 4)},
        "float8",
    ),
    "meta": ({"a.weight": torch.empty(4, 8, device="meta")}, "device meta"),
    "sparse": ({"a.weight": torch.eye(4).to_sparse()}, "sparse_coo"),
}
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Sparse CSR")  # is in beta, once for each process
    HIDDEN["csr"] = ({"a.weight": torch.eye(4).to_sparse_csr()}, "sparse_csr")


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_weights_that_cannot_be_measured_are_named(tmp_path: Path, name: str) -> None:
    hidden, reason = HIDDEN[name]
    found = read(
        {**hidden, "head.weight": torch.randn(2, 4), "ids": torch.zeros(1, 9, dtype=torch.int64)}, tmp_path
    )
    assert [reason in why for why in found.networks[0].unread.values()] == [True]
    assert list(found.networks[0].measured) == ["head.weight", "ids"]
    with pytest.raises(NoWeights, match=r"no weight that can be measured: a\.q?weight"):
        read(hidden, tmp_path)


def saved(contents: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


def test_archives_of_agents(tmp_path: Path) -> None:
    agent = tmp_path / "agent.zip"
    with zipfile.ZipFile(agent, "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.pth", saved(network().state_dict()))
        archive.writestr("policy.optimizer.pth", saved(trained()["optim"]))
        archive.writestr("pytorch_variables.pth", saved(None))
    assert [one.where for one in read_checkpoint(agent).networks] == [("policy.pth",)]
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as archive:
        archive.writestr("notes.txt", "x")
    with pytest.raises(NoWeights, match="a zip archive without a torch file"):
        read_checkpoint(tmp_path / "text.zip")
    whole = agent.read_bytes()
    agent.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IsoplastError, match="truncated or damaged"):
        read_checkpoint(agent)


def test_a_folder_of_deepspeed(tmp_path: Path) -> None:
    torch.save({"module": network().state_dict()}, tmp_path / "mp_rank_00_model_states.pt")
    torch.save({"module": network(6).state_dict()}, tmp_path / "mp_rank_01_model_states.pt")
    torch.save({"x": torch.randn(4, 4)}, tmp_path / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert {one.where for one in read_checkpoint(tmp_path).networks} == {
        ("mp_rank_00_model_states.pt", "module"),
        ("mp_rank_01_model_states.pt", "module"),
    }
