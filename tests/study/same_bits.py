"""What it means that two runs gave the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from isoplast.study import RunDirectory
from isoplast.study.store._files import read_rows


def rows_without_seconds(directory: RunDirectory) -> list[dict[str, Any]]:
    return [{**row, "seconds": None} for row in read_rows(directory.metrics)]


def assert_same_bits(one: Path, other: Path) -> None:
    """Two finished runs: same metrics, and same weights, optimizer state and random state, to the bit."""
    first, second = RunDirectory(one), RunDirectory(other)
    assert first.status().state == second.status().state == "done"
    assert rows_without_seconds(first) == rows_without_seconds(second)
    left, right = first.load_checkpoint(), second.load_checkpoint()
    assert left is not None
    assert right is not None
    for checkpoint in (left, right):
        del checkpoint["metrics_size"]  # seconds have more or fewer digits
    _assert_equal(left, right)


def _assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            _assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            _assert_equal(left, right)
    else:
        assert one == other
