"""What is written opens by its own name, has everything that it can have, and says what it has not."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.model import check_target, read_checkpoint, write_checkpoint

safetensors = pytest.importorskip("safetensors.torch")


def training() -> dict[str, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.5)
    net(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    return {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}


@pytest.mark.parametrize("keep", [True, False])
def test_the_optimizer_starts_anew_unless_it_is_kept(tmp_path: Path, keep: bool) -> None:
    torch.save(training(), tmp_path / "a.pt")
    said = write_checkpoint(read_checkpoint(tmp_path / "a.pt"), tmp_path / "b.pt", keep_optimizer=keep)
    written = torch.load(tmp_path / "b.pt", weights_only=True)
    assert written["epoch"] == 3
    assert written["model"].keys() == training()["model"].keys()
    assert len(written["optimizer"]["state"]) == (4 if keep else 0)
    assert said == ([] if keep else ["the state of optimizer, which is empty now"])
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(net.parameters())
    optimizer.load_state_dict(written["optimizer"])
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("target", ["b.safetensors", "b.pt", "b.pth", "b.ckpt", "b.bin", "b.pth.tar"])
@pytest.mark.parametrize("source", ["a.safetensors", "a.pt"])
def test_the_name_says_the_format(tmp_path: Path, source: str, target: str) -> None:
    state = training()["model"]
    if source.endswith("pt"):
        torch.save({"model": state}, tmp_path / source)
    else:
        safetensors.save_file(dict(state), tmp_path / source, {"format": "pt", "step": "7"})
    write_checkpoint(read_checkpoint(tmp_path / source), tmp_path / target)
    whole = (
        safetensors.load_file(tmp_path / target) if "safetensors" in target else torch.load(tmp_path / target)
    )
    found = whole.get("model", whole)
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_several_networks_into_one_safetensors_file(tmp_path: Path) -> None:
    contents = {"actor": training()["model"], "critic": {"w.weight": torch.randn(3, 3)}, "step": 1}
    torch.save(contents, tmp_path / "a.pt")
    said = write_checkpoint(read_checkpoint(tmp_path / "a.pt"), tmp_path / "b.safetensors")
    assert said == ["everything but the networks: a safetensors file holds tensors alone"]
    assert {"actor.0.weight", "critic.w.weight"} <= safetensors.load_file(tmp_path / "b.safetensors").keys()


def test_tied_weights_go_into_a_safetensors_file(tmp_path: Path) -> None:
    table = torch.randn(5, 3)
    torch.save(
        {"embed.weight": table, "head.weight": table, "fc.weight": torch.randn(3, 3)}, tmp_path / "a.pt"
    )
    write_checkpoint(read_checkpoint(tmp_path / "a.pt"), tmp_path / "b.safetensors")
    assert torch.equal(safetensors.load_file(tmp_path / "b.safetensors")["head.weight"], table)


def test_objects_are_left_out_and_named(tmp_path: Path) -> None:
    state = OrderedDict(training()["model"])
    torch.save(
        {"args": argparse.Namespace(lr=1), "list": [argparse.Namespace(), 2], "model": state},
        tmp_path / "a.pt",
    )
    said = write_checkpoint(read_checkpoint(tmp_path / "a.pt"), tmp_path / "b.pt")
    assert said == ["args (a argparse.Namespace)", "list/0 (a argparse.Namespace)"]
    written = torch.load(tmp_path / "b.pt", weights_only=True)
    assert written["list"] == [None, 2]
    assert list(written) == ["list", "model"]


@pytest.mark.parametrize("name", ["x.npz", "x", "gone/x.pt", "here.pt"])
def test_a_target_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "here.pt").write_bytes(b"")
    with pytest.raises(IsoplastError, match=r"says no format|is no folder|exists: choose another"):
        check_target(tmp_path / name)
