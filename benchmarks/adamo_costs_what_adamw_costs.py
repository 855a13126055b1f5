"""AdamO costs what AdamW costs: the optimizer step and the whole training step, side by side.

The paper's MLP (784-512-512-512-10). All variants run in one process and take turns, so that a busy
machine slows all of them alike; the table gives ratios of medians to fused AdamW.

    python benchmarks/adamo_costs_what_adamw_costs.py [--rounds 1100] [--threads 2] [--batches 16 256]
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from isoplast import AdamO, isometry_penalty
from isoplast.isometry import flow_step_, isometry_step_
from isoplast.nn import build

LR = 1e-3


class Variant:
    """One way to train: a model of its own, its optimizer, and the times of its steps."""

    def __init__(
        self, model: nn.Module, make: Callable[[nn.Module], torch.optim.Optimizer], penalised: bool = False
    ) -> None:
        self.model = copy.deepcopy(model)
        self.optimizer = make(self.model)
        self.penalised = penalised
        self.step_times: list[float] = []
        self.whole_times: list[float] = []

    def train(self, x: Tensor, y: Tensor) -> None:
        """One training step, timed in two parts."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(x), y)
        if self.penalised:
            loss = loss + 1e-2 * isometry_penalty(self.model)
        loss.backward()
        middle = time.perf_counter()
        self.optimizer.step()
        end = time.perf_counter()
        self.step_times.append(end - middle)
        self.whole_times.append(end - start)


def variants(model: nn.Module) -> dict[str, Variant]:
    """The peers: fused AdamW, AdamO in both modes, and the penalty in the loss."""
    return {
        "AdamW (fused)": Variant(model, lambda m: torch.optim.AdamW(m.parameters(), lr=LR, fused=True)),
        'AdamO, isometry_every="auto"': Variant(model, lambda m: AdamO(m.parameters(), lr=LR, fused=True)),
        "AdamO, isometry_every=1": Variant(
            model, lambda m: AdamO(m.parameters(), lr=LR, fused=True, isometry_every=1)
        ),
        "AdamW (fused) + penalty in the loss": Variant(
            model, lambda m: torch.optim.AdamW(m.parameters(), lr=LR, fused=True), penalised=True
        ),
    }


def measure(batch: int, rounds: int) -> list[tuple[str, float, float, float, float]]:
    """Rows (name, optimizer ms, its ratio, whole-step ms, its ratio).

    "auto" acts on one matrix in some steps and on none in most: means, not medians, would count
    those steps. Each variant's sample is therefore the mean over a block of 100 steps, the longest
    time that "auto" waits, and the table holds medians over the blocks.
    """
    torch.manual_seed(0)
    runs = variants(build("mlp", input_shape=(784,), classes=10, width=512, depth=3))
    x, y = torch.randn(batch, 784), torch.randint(10, (batch,))
    for _ in range(rounds):
        for run in runs.values():
            run.train(x, y)
    base = next(iter(runs.values()))
    rows = []
    for name, run in runs.items():
        step, whole = typical(run.step_times), typical(run.whole_times)
        rows.append((name, step, step / typical(base.step_times), whole, whole / typical(base.whole_times)))
    return rows


def typical(times: list[float], block: int = 100) -> float:
    """The median over blocks of the mean over a block, in ms; the first block warms up."""
    means = [statistics.fmean(times[i : i + block]) for i in range(block, len(times) - block + 1, block)]
    return 1e3 * statistics.median(means)


def extra_memory() -> list[tuple[str, float]]:
    """Peak extra memory of one step on a 784 x 512 matrix, over that matrix plus its Gram."""
    from torch.profiler import ProfilerActivity, profile

    rows = []
    for name, step in (("exact step", isometry_step_), ("closed form", flow_step_)):
        w = torch.randn(784, 512) / 28
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
            step(w, 1e-4)
        live = peak = 0
        for event in prof.profiler.kineto_results.events():
            if event.name() == "[memory]":
                live += event.nbytes()
                peak = max(peak, live)
        rows.append((name, peak / (w.numel() * 4 + 512 * 512 * 4)))
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1100, help="training steps per variant (>= 200)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 256])
    args = parser.parse_args()
    if args.rounds < 200:
        parser.error(f"--rounds {args.rounds}: at least 200, a block to warm up and one to measure")
    torch.set_num_threads(args.threads)
    machine = f"torch {torch.__version__}, {platform.machine()}, {args.threads} threads"
    print(f"{machine}, n={args.rounds} steps each\n")
    print("| batch | variant | optimizer step, ms | ratio | whole step, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for batch in args.batches:
        for name, step, step_ratio, whole, whole_ratio in measure(batch, args.rounds):
            print(f"| {batch} | {name} | {step:.2f} | {step_ratio:.2f} | {whole:.2f} | {whole_ratio:.2f} |")
    print()
    for name, ratio in extra_memory():
        print(f"extra memory of the {name}: {ratio:.2f} x (the matrix plus its Gram)")


if __name__ == "__main__":
    main()
