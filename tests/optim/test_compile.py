"""torch.compile of a step gives the step."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from isoplast import AdamO

BACKENDS = [
    pytest.param("eager", id="eager"),
    pytest.param(
        "inductor",
        id="inductor",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(
                not (shutil.which("gcc") or shutil.which("g++") or shutil.which("clang++")),
                reason="inductor needs a C++ compiler",
            ),
        ],
    ),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "settings",
    [{"isometry": 0.1, "isometry_every": 1}, {"isometry": 0.1, "isometry_every": 3}, {"isometry": 0.0}],
    ids=["exact", "amortised", "off"],
)
def test_compiled_step_is_the_step(backend: str, settings: dict[str, Any]):
    torch._dynamo.reset()
    ends = []
    for compiled in (False, True):
        source = torch.Generator().manual_seed(0)
        params = [Parameter(torch.randn(s, generator=source) / 4) for s in ((14, 8), (6, 2, 3, 3), (5,))]
        optimizer = AdamO(params, lr=torch.tensor(0.01), foreach=False, **settings)
        step = torch.compile(optimizer.step, backend=backend) if compiled else optimizer.step
        for _ in range(5):
            for p in params:
                p.grad = torch.randn(p.shape, generator=source)
            step()
        ends.append(params)
    for p, q in zip(*ends, strict=True):
        # Inductor fuses Adam's operations: other roundings of updates of size lr = 1e-2.
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
