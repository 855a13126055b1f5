"""torch.compile of a step gives the step."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
import torch._dynamo.testing
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


@pytest.mark.parametrize("lr", [0.01, torch.tensor(0.01)], ids=["number", "tensor"])
@pytest.mark.parametrize("every", [1, 5, "auto"])
def test_a_schedule_compiles_as_often_as_adamws(lr: Any, every: Any):
    """What changes in every step (debts, countdowns) must be nothing that the compiler guards by value."""
    compiled = []
    for make in (lambda p: torch.optim.AdamW(p, lr=lr), lambda p: AdamO(p, lr=lr, isometry_every=every)):
        torch._dynamo.reset()
        counter = torch._dynamo.testing.CompileCounter()
        params = [Parameter(torch.randn(8, 6)), Parameter(torch.randn(6, 6)), Parameter(torch.randn(6))]
        optimizer = make(params)
        step = torch.compile(optimizer.step, backend=counter)
        for t in range(60):
            rate = 0.01 * (1 - t / 60)
            if isinstance(lr, torch.Tensor):
                optimizer.param_groups[0]["lr"].fill_(rate)
            else:
                optimizer.param_groups[0]["lr"] = rate
            for p in params:
                p.grad = torch.randn_like(p)
            step()
        compiled.append(counter.frame_count)
    assert compiled[1] == compiled[0]
