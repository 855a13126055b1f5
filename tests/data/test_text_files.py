"""Text files as sequences of bytes, and held-out samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset, data_spec, load_data, save_data

FIRST, SECOND = bytes(range(200)), b"abcdefghij" * 10


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "b.txt").write_bytes(SECOND)
    (tmp_path / "books" / "a.txt").write_bytes(FIRST)
    (tmp_path / "books" / "notes.md").write_bytes(b"not read")
    return tmp_path


def test_sequences_and_what_follows_them(folder: Path) -> None:
    data = load_data("text", path="books", length=10, root=folder)
    # 180 bytes of the first file are for training: 17 sequences of 10 and the byte after each.
    assert data.parts == (("a", 17), ("b", 8))
    assert bytes(data.inputs[:17].flatten().tolist()) == FIRST[:170]
    assert torch.equal(data.targets[:17], data.inputs[:17] + 1)
    assert bytes(data.inputs[17].tolist()) == b"abcdefghij"
    assert data.classes == 256


def test_no_byte_of_the_test_split_is_trained_on(folder: Path) -> None:
    data = load_data("text", path="books", length=9, test=True, root=folder)
    assert data.test is not None
    train, test = (set(one.inputs[: one.parts[0][1]].flatten().tolist()) for one in (data, data.test))
    assert train == set(range(171))
    assert test <= set(range(180, 200))
    assert test


def test_a_choice_takes_equally_from_every_part(folder: Path) -> None:
    data = load_data("text", path="books", length=10, samples=6, root=folder)
    assert data.parts == (("a", 3), ("b", 3))
    assert bytes(data.inputs[3].tolist()) == b"abcdefghij"


def test_the_standard_library_is_a_last_part(folder: Path) -> None:
    data = load_data("text", path="books", length=10, python_bytes=1000, root=folder)
    assert data.parts[-1] == ("python", 89)
    assert "standard library" in data.note


def test_nothing_of_the_library_is_made_by_a_build_or_a_distribution(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = folder / "library"
    library.mkdir()
    released = {"abc": b"a\r\n" * 50, "cProfile": b"c\n" * 50, "calendar": b"d\n" * 50, "types": b"t\n" * 50}
    added = ("_sysconfigdata__linux", "_sysconfigdata_t_darwin", "sitecustomize", "usercustomize", "mine")
    for name, content in {**released, **dict.fromkeys(added, b"! " * 50)}.items():
        (library / f"{name}.py").write_bytes(content)
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(library)})
    data = load_data("text", path="books", length=9, python_bytes=400, root=folder)
    text = bytes(data.inputs[-data.parts[-1][1] :].flatten().tolist())
    whole = (b"a\n" * 50 + b"c\n" * 50 + b"d\n" * 50 + b"t\n" * 50)[:360]
    assert text == b"".join(whole[start : start + 9] for start in range(0, len(text), 9))
    assert len(text) == 351


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "gone"}, "'gone' is not there"),
        ({"path": "books", "length": 0}, "length of data text is 0"),
        ({"path": "books", "length": 15}, "b has 100 bytes, too few for test sequences of 15"),
        ({"path": "."}, "holds no .txt file"),
        ({"path": "books", "hold_out": 0.5}, "leave it out"),
        ({"path": "books", "length": 5, "python_bytes": 10**9}, "the standard library has"),
    ],
)
def test_refused_in_one_line(folder: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(IsoplastError, match=message) as caught:
        data_spec("text", **settings).load_with_test(folder)
    assert "\n" not in str(caught.value)


def test_held_out_of_the_train_split() -> None:
    whole = load_data("digits")
    data = load_data("digits", hold_out=0.25, test=True)
    assert data.test is not None
    assert len(data.targets) + len(data.test.targets) == len(whole.targets)
    rows = {row.tobytes() for row in data.inputs.numpy()}
    assert not rows & {row.tobytes() for row in data.test.inputs.numpy()}
    counts = data.test.targets.bincount()
    assert int(counts.max() - counts.min()) <= 12  # a quarter of classes that differ by 46


@pytest.mark.parametrize("samples", [None, 1000])
def test_what_is_held_out_is_in_no_train_split(samples: int | None) -> None:
    both = load_data("digits", hold_out=0.25, samples=samples, test=True)
    alone, held_out = load_data("digits", hold_out=0.25, samples=samples), both.test
    assert held_out is not None
    assert alone.test is None
    assert len(alone.targets) == samples or len(alone.targets) + len(held_out.targets) == 1437
    assert torch.equal(alone.inputs, both.inputs)
    assert torch.equal(load_data("digits", hold_out=0.25, split="test").inputs, held_out.inputs)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_number_of_held_out_samples_needs_some(split: str) -> None:
    with pytest.raises(IsoplastError, match=r"^test_samples=5 of data 'digits': .* leave it out"):
        load_data("digits", test_samples=5, split=split)


def test_the_numbers_of_both_are_settings() -> None:
    data = load_data("digits", samples=100, test_samples=50, test=True)
    assert data.test is not None
    assert (len(data.targets), len(data.test.targets)) == (100, 50)
    assert torch.equal(data.test.inputs, load_data("digits", split="test", samples=50).inputs)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (Dataset(np.zeros((3, 5)), np.arange(3)), "of the same kind"),
        (Dataset(np.zeros((3, 4)), np.zeros(3)), "of the same kind"),
        (Dataset(np.zeros((3, 4)), np.arange(3) + 3), "held-out targets reach 5: classes are 0 to 2"),
    ],
)
def test_held_out_samples_of_another_kind(test: Dataset, message: str) -> None:
    with pytest.raises(IsoplastError, match=message):
        Dataset(np.zeros((3, 4)), np.arange(3), test=test)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_that_leaves_nothing(share: float) -> None:
    with pytest.raises(IsoplastError, match="give 0 < share < 1"):
        Dataset(np.zeros((3, 4)), np.arange(3)).split(share)


def test_held_out_samples_are_saved_along(tmp_path: Path) -> None:
    data = Dataset(np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 2).split(0.25)
    again = save_data(tmp_path / "mine.npz", data).load_with_test()
    assert again.test is not None
    assert data.test is not None
    assert torch.equal(again.inputs, data.inputs)
    assert torch.equal(again.test.inputs, data.test.inputs)
