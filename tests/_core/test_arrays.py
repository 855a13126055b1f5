"""Arrays from files: what numpy and safetensors write, and headers that lie."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from isoplast._core.arrays import parse_npy, read_arrays
from isoplast._core.errors import IsoplastError


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def npy(array: np.ndarray, version: Any = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(6, dtype=">f8").reshape(3, 2),
    np.arange(4, dtype=">i4"),
    np.array(3.5),
    np.zeros((0, 3), np.float32),
    np.array([True, False]),
    np.arange(3, dtype=np.uint8),
    np.array([1 + 2j], np.complex64),
    np.zeros((1,) * 12, np.float16),
]


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_reads_what_numpy_writes(tmp_path: Path, array: np.ndarray, version: tuple[int, int]) -> None:
    assert np.array_equal(parse_npy(npy(array, version)), array)
    (tmp_path / "a.npy").write_bytes(npy(array, version))
    found = read_arrays(tmp_path / "a.npy")
    assert list(found) == ["inputs"]
    assert found["inputs"].shape == array.shape
    assert np.array_equal(found["inputs"].numpy(), array)
    assert found["inputs"].numpy().dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_npz(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "a.npz", inputs=ARRAYS[0], targets=ARRAYS[7])
    found = read_arrays(tmp_path / "a.npz")
    assert {name: value.tolist() for name, value in found.items()} == {
        "inputs": ARRAYS[0].tolist(),
        "targets": [0, 1, 2],
    }


def test_reads_safetensors(tmp_path: Path) -> None:
    save_file({"inputs": torch.ones(2, 3), "targets": torch.arange(2)}, tmp_path / "a.safetensors")
    assert read_arrays(tmp_path / "a.safetensors")["targets"].tolist() == [0, 1]


def header(text: str, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = text.encode("latin-1")
    return b"\x93NUMPY\x02\0" + (length or len(encoded)).to_bytes(4, "little") + encoded + data


HOSTILE = {
    "nothing": b"",
    "magic alone": b"\x93NUMPY",
    "no version": b"\x93NUMPY\x09\0" + bytes(200),
    "cut header": npy(ARRAYS[0])[:40],
    "cut data": npy(ARRAYS[0])[:-1],
    "more data": npy(ARRAYS[0]) + b"\0",
    "72 TiB": header("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000, 1000000), }", bytes(100)),
    "over 2^64": header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**30}, 0, 2), }}", bytes(8)),
    "long header": header("{" + " " * 10**7 + "}"),
    "length that lies": header("{}", length=2**32 - 1),
    "deep": header("(" * 1900),
    "deep lists": header("[" * 900 + "]" * 900),
    "deep signs": header("-" * 1900 + "1"),
    "many digits": header("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 1800 + ",), }"),
    "negative": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", bytes(8)),
    "float shape": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1.0,), }", bytes(8)),
    "true shape": header("{'descr': '<f8', 'fortran_order': False, 'shape': (True,), }", bytes(8)),
    "list shape": header("{'descr': '<f8', 'fortran_order': False, 'shape': [1], }", bytes(8)),
    "missing key": header("{'descr': '<f8', 'shape': (1,), }", bytes(8)),
    "a list": header("[1, 2]"),
    "code": header("__import__('os').system('touch owned')"),
    "object": npy(np.array([{}], dtype=object)),
    "text": npy(np.array(["a"])),
    "structure": npy(np.zeros(2, dtype=[("a", "<f4")])),
    "date": npy(np.array(["2026-02-01"], dtype="datetime64[D]")),
    "wide float": npy(np.zeros(1, np.longdouble)),
    "odd float": header("{'descr': '<f3', 'fortran_order': False, 'shape': (1,), }", bytes(3)),
    "control characters": header("{'descr': '\x1b[2J', 'fortran_order': False, 'shape': (1,), }", bytes(8)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_lies_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(IsoplastError, match=r"a\.npy holds no arrays of numbers: ") as error:
        read_arrays(path)
    assert str(error.value).isprintable()
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"{", bytes(8), (2**63).to_bytes(8, "little") + b"{}"])
def test_damaged_files_of_the_other_kinds(tmp_path: Path, content: bytes) -> None:
    for name in ("a.npz", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(IsoplastError, match="truncated or damaged"):
            read_arrays(tmp_path / name)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(IsoplastError, match="there is no file"):
        read_arrays(tmp_path / "a.npz")
