"""MaxMin costs at most three ReLUs and at most half of the sorting form.

Forward plus backward on (1024, 1024) over the features and (64, 32, 28, 28) over the channels, float32.
The three are timed in turn, round after round in one process, so that whatever else the machine does hits
all of them; the figures are medians over the rounds.

    python benchmarks/maxmin_costs_what_relu_costs.py [--rounds 60] [--threads 1] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from isoplast.nn import MaxMin


def sorting_form(inputs: Tensor) -> Tensor:
    """Return the usual implementation: sort neighbouring pairs."""
    return inputs.unflatten(1, (inputs.shape[1] // 2, 2)).sort(2).values.flatten(1, 2)


def milliseconds(function: Callable[[Tensor], Tensor], inputs: Tensor, upstream: Tensor) -> float:
    """Time one forward and backward."""
    if inputs.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    torch.autograd.grad(function(inputs), inputs, upstream)
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    contestants = {"relu": torch.relu, "maxmin": MaxMin(1), "sort": sorting_form}
    print(
        f"torch {torch.__version__}, {options.device}, {options.threads} thread(s), {options.rounds} rounds"
    )
    print(f"{'shape':>18} {'relu ms':>8} {'maxmin':>8} {'sort':>8} {'maxmin/relu':>12} {'sort/maxmin':>12}")
    for shape in [(1024, 1024), (64, 32, 28, 28)]:
        inputs = torch.randn(shape, device=options.device, requires_grad=True)
        upstream = torch.randn(shape, device=options.device)
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for round_ in range(options.rounds + 5):
            for name, function in contestants.items():
                elapsed = milliseconds(function, inputs, upstream)
                if round_ >= 5:
                    times[name].append(elapsed)
        relu, maxmin, sort = (statistics.median(times[name]) for name in contestants)
        ratios = f"{maxmin / relu:12.2f} {sort / maxmin:12.2f}"
        print(f"{shape!s:>18} {relu:8.3f} {maxmin:8.3f} {sort:8.3f} {ratios}")


if __name__ == "__main__":
    main()
