"""Our reader of torch files against torch's own, and against files that claim what is not so."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.model.files._stand_in import Name, StandIn
from isoplast.model.files._torch_file import read_torch_file


def training_state() -> dict[str, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 40), nn.BatchNorm1d(40), nn.Linear(40, 10))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(4, 30)).sum().backward()
    optimizer.step()
    return {
        "model": net.state_dict(),  # an OrderedDict with _metadata
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "plain": [1, -2.5, None, True, "é", b"ab\xff", (1, (2,)), 10**30, -(10**20), float("inf"), [], {}],
        "epoch": 3,
    }


def with_attribute(tensor: torch.Tensor) -> torch.Tensor:
    tensor.note = {"a": 1}
    return tensor


warnings.filterwarnings("ignore", "Sparse CSR|torch.quantize_per_tensor")  # once for each process
BASE = torch.arange(20.0)
COMPLEX = torch.complex(torch.arange(3.0), torch.ones(3))
VALUES: dict[str, Any] = {
    "training": training_state(),
    "views": {"a": BASE, "b": BASE[3:7], "c": BASE.view(4, 5).t(), "d": BASE.view(4, 5)[::2], "e": BASE},
    "parameters": {
        "a": with_attribute(nn.Parameter(torch.ones(3))),
        "b": with_attribute(torch.zeros(2)),
        "c": nn.Parameter(torch.ones(2), requires_grad=False),
        "d": torch.ones(2, requires_grad=True),
    },
    "types": {
        str(dtype): torch.arange(6).reshape(3, 2).to(dtype)
        for dtype in (
            *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
            *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.complex64),
        )
    },
    "new types": {"a": torch.ones(3, 2).to(torch.float8_e4m3fn), "b": torch.ones(3, 2).to(torch.uint16)},
    "conjugate": {"a": COMPLEX.conj()},
    "negative": {"a": COMPLEX.conj().imag},
    "sparse": {
        "coo": torch.eye(4).to_sparse(),
        "csr": torch.eye(4).to_sparse_csr(),
        "bsr": torch.eye(4).to_sparse_bsr((2, 2)),
    },
    "quantised": {
        "a": torch._make_per_tensor_quantized_tensor(torch.arange(16, dtype=torch.int8).view(4, 4), 0.1, 0)
    },
    "meta": {"a": torch.empty(3, 4, device="meta")},
    "empty": {"a": torch.zeros(0, 3), "b": torch.tensor(3.0), "c": torch.zeros(2, 0)},
    "small things": {
        **{"a": torch.Size([1, 2]), "b": torch.device("cuda:1"), "c": torch.float16, "d": {1, "x"}},
        **{"e": 1 + 2j, "f": bytearray(b"xy"), "g": Counter("aab"), "h": OrderedDict(a=1), (1, "k"): 1},
    },
    "a list": [torch.ones(2)],
    "nothing": None,
}


def same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        for name in ("dtype", "shape", "requires_grad", "layout", "device", "is_quantized"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert getattr(ours, "note", None) == getattr(theirs, "note", None)
        if ours.is_quantized:
            assert torch.equal(ours.int_repr(), theirs.int_repr())
        elif not ours.is_meta:
            wide = torch.complex128 if ours.is_complex() else torch.float64
            assert torch.equal(ours.to_dense().to(wide), theirs.to_dense().to(wide))
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs)
        assert getattr(ours, "_metadata", None) == getattr(theirs, "_metadata", None)
        for key in ours:
            same(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    else:
        assert ours == theirs


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", VALUES)
def test_reads_what_torch_reads(tmp_path: Path, name: str, zipped: bool, protocol: int) -> None:
    path = tmp_path / "x.pt"
    torch.save(VALUES[name], path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    if name == "new types" and not zipped:  # torch writes them, and cannot read them again
        assert torch.equal(read_torch_file(path)["b"], VALUES[name]["b"])
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.load(path, map_location="cpu", weights_only=False)
    same(read_torch_file(path), theirs)


def test_shared_storages_stay_shared(tmp_path: Path) -> None:
    for zipped in (True, False):
        path = tmp_path / "x.pt"
        torch.save(VALUES["views"], path, _use_new_zipfile_serialization=zipped)
        found = read_torch_file(path)
        found["a"].zero_()
        assert not found["b"].any()
        assert found["e"] is found["a"]


def test_the_other_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(5, dtype=torch.int32), "b": torch.arange(3.0)}, path)
    members = unzipped(path)
    order = next(name for name in members if name.endswith("/byteorder"))
    members[order] = b"big"
    for name, content in members.items():
        if "/data/" in name:
            members[name] = np.frombuffer(content, "<u4").astype(">u4").tobytes()
    zip_again(path, members)
    found = read_torch_file(path)
    assert found["a"].tolist() == [0, 1, 2, 3, 4]
    assert found["b"].tolist() == [0.0, 1.0, 2.0]


def test_repeated_numbers_are_written_out(tmp_path: Path) -> None:
    """An expanded tensor cannot be edited in place, as repair does."""
    path = tmp_path / "x.pt"
    value = {"a": torch.ones(3, 1).expand(3, 5), "b": torch.arange(4.0).unfold(0, 2, 1)}
    for zipped in (True, False):
        torch.save(value, path, _use_new_zipfile_serialization=zipped)
        found = read_torch_file(path)
        assert torch.equal(found["a"].mul_(2), torch.full((3, 5), 2.0))
        assert found["b"].tolist() == [[0, 1], [1, 2], [2, 3]]


def unzipped(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_again(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_every_flipped_bit_of_a_weight_is_seen(tmp_path: Path) -> None:
    """torch.load reads another number instead."""
    path = tmp_path / "x.pt"
    torch.save({"w": torch.randn(64, 64)}, path)
    whole = path.read_bytes()
    start = whole.index(unzipped(path)["x/data/0"])
    unseen = 0
    for place in np.random.default_rng(0).integers(start, start + 64 * 64 * 4, 40):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(place % 8)
        path.write_bytes(damaged)
        unseen += not torch.equal(torch.load(path)["w"], torch.load(io.BytesIO(whole))["w"])
        with pytest.raises(IsoplastError, match="truncated or damaged"):
            read_torch_file(path)
    assert unseen == 40


@pytest.mark.parametrize("made", [nn.Linear(2, 2), Path("a"), np.float64(1.0), np.arange(3), os.system])
def test_stand_ins_take_the_place_of_python_objects(tmp_path: Path, made: Any) -> None:
    path = tmp_path / "x.pt"
    for zipped in (True, False):
        torch.save({"a": made, "w": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
        found = read_torch_file(path)
        assert type(found["a"]) is (Name if made is os.system else StandIn)
        assert found["a"].name.split(".")[0] in ("torch", "pathlib", "numpy", "posix", "nt")
        assert torch.equal(found["w"], torch.ones(2))


def test_other_archives_and_pickles_are_called_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    zip_again(path, {"data": b"{}", "notes.txt": b"PK"})
    with pytest.raises(IsoplastError, match="is a zip archive without a torch file in it"):
        read_torch_file(path)
    path.write_bytes(pickle.dumps({"a": 1}, 2))
    with pytest.raises(IsoplastError, match=r"is a pickle that torch\.save did not write"):
        read_torch_file(path)
