"""The NTK takes the memory that its plan says, counted by torch's profiler: bytes of tensors, no noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from isoplast.diagnostics import ntk
from isoplast.diagnostics.ntk._exact import kernel
from isoplast.diagnostics.ntk._half import half_bytes
from isoplast.diagnostics.ntk._plan import plan
from isoplast.nn import build


def peak(run: Callable[[], Any]) -> int:
    """Return the largest number of bytes of tensors that a run has at a time, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = run()
    events = record.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    del result
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def small_mlp() -> nn.Module:
    torch.manual_seed(0)
    return build("mlp", input_shape=(200,), classes=10, width=256, depth=3).eval()


def test_memory_is_counted() -> None:
    assert peak(lambda: torch.zeros(1000) + torch.zeros(1000)) == 12_000
    assert peak(lambda: [torch.zeros(1000).sum() for _ in range(3)]) < 4_200


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_the_kernel_is_computed_within_its_limit(share: float) -> None:
    """By pairs of blocks of samples, by layers, and all at once."""
    model, inputs = small_mlp(), torch.randn(24, 200)
    how = plan(model, inputs, dict(model.named_parameters()), "auto")
    together = [list(how.units)]
    apart = [[unit] for unit in how.units]
    whole = sum(4 * parameter.numel() for parameter in model.parameters())
    least, most = how._needed(apart, 24, 1, 1, 1), how._needed(together, 24, 24, 24, whole)
    limit = int(least + share * (most - least))
    division = how.division(24, limit)
    kernel(model, inputs, how, division)  # what is kept from the first run on is not counted
    assert half_bytes(240, 10) < peak(lambda: kernel(model, inputs, how, division)) <= limit
    assert half_bytes(5120, 10) < 0.52 * 8 * 5120**2  # what a whole one takes in float32


@pytest.mark.parametrize("centred", [False, True])
def test_the_spectrum_takes_two_matrices(centred: bool) -> None:
    """Of n C = 1000 rows: one that is returned, one for LAPACK, and less than 2 MB for everything else."""
    model, inputs = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 10)), torch.randn(100, 8)
    ntk(model, inputs[:2], centred=centred)
    assert peak(lambda: ntk(model, inputs, centred=centred)) <= 2 * 8 * 1000**2 + 2e6
