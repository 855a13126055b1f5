"""Extra memory of a step: at most one matrix of W's size and one Gram, measured by the profiler."""

from collections.abc import Callable

import pytest
import torch
from given_matrices import normal
from torch.profiler import ProfilerActivity, profile

from isoplast.isometry import flow_step_, isometry_step_


def peak_bytes(work: Callable[[], object]) -> int:
    """The largest sum of live allocations while the work runs, kernels' own workspaces included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        work()
    allocations: list[tuple[int, int]] = []

    def collect(events: list) -> None:
        for event in events:
            if event.tag.name == "Allocation":
                allocations.append((event.start_time_ns, event.extra_fields.alloc_size))
            collect(event.children)

    collect(prof.profiler.kineto_results.experimental_event_tree())
    live = peak = 0
    for _, size in sorted(allocations, key=lambda a: a[0]):
        live += size
        peak = max(peak, live)
    return peak


def test_the_measure_itself():
    size = 1000 * 1000 * 4
    assert peak_bytes(lambda: torch.zeros(1000, 1000) + torch.zeros(1000, 1000)) == 3 * size

    def one_after_the_other() -> None:
        for _ in range(5):
            torch.zeros(1000, 1000)

    assert peak_bytes(one_after_the_other) == size


@pytest.mark.parametrize(
    "shape", [(512, 512), (2048, 512), (512, 2048), (768, 512), (512, 768), (4, 256, 256)]
)
@pytest.mark.parametrize("step_", [isometry_step_, flow_step_])
def test_extra_memory_of_a_step(shape, step_):
    w = 1.2 * normal(*shape, dtype=torch.float32)
    step_(w, 1e-3)  # warm: libraries allocate their own buffers once
    gram = 4 * w.numel() // max(shape[-2:]) * min(shape[-2:])
    matrix = 4 * w.numel()
    # Scalars, diagonals and the Cholesky status beside them: some kilobytes.
    assert peak_bytes(lambda: step_(w, 1e-3)) <= matrix + gram + 16384


@pytest.mark.parametrize("shape", [(512, 512), (2048, 512), (512, 2048)])
def test_extra_memory_of_the_polynomial(shape):
    """Two Gram matrices, and a strip, a quarter of one, with the packed copy that a kernel makes of it."""
    w = 0.1 * normal(*shape, dtype=torch.float32)
    flow_step_(w, 1e-4, tolerance=0.01)
    gram = 4 * min(shape) ** 2
    assert (
        peak_bytes(lambda: flow_step_(w, 1e-4, tolerance=0.01))
        <= max(2.6 * gram, gram + 4 * w.numel()) + 16384
    )
