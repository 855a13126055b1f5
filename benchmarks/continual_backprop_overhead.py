"""What Continual Backprop adds to a training step: beside plain Adam, in one process, taking turns.

Two settings that are quoted for the authors' code: 3 hidden layers of 2000 units at batch size 1 (1.38 times
plain backpropagation) and of 100 units at batch size 16 (1.79 times). The ratio is that of the mean times of
blocks of 50 steps, its median over the blocks: replacements, which happen in some steps only, count. Times
are processor times of one thread, which other work on the machine disturbs less than the clock on the wall.

    python benchmarks/continual_backprop_overhead.py [--blocks 12]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import torch
from torch.nn.functional import cross_entropy

from isoplast.methods import training
from isoplast.nn import build

BLOCK = 50
SETTINGS = ((2000, 1, 1.38), (100, 16, 1.79))
METHODS = ("adam", "cbp", "redo", "snr", "swr")


class Arm:
    """A network that trains with one method, and how long its blocks of steps took."""

    def __init__(self, name: str, width: int) -> None:
        torch.manual_seed(0)
        network = build("mlp", input_shape=(784,), classes=10, width=width, depth=3)
        self.training = training(name, network, lr=1e-4)
        self.block = 0.0
        self.blocks: list[float] = []

    def step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        """One training step, timed."""
        inputs, targets = batch
        start = time.thread_time()
        self.training.step(lambda: cross_entropy(self.training.model(inputs), targets), inputs=inputs)
        self.block += time.thread_time() - start
        if self.training.steps % BLOCK == 0:
            self.blocks.append(self.block / BLOCK)
            self.block = 0.0


def measure(width: int, batch: int, blocks: int) -> list[tuple[str, float, float]]:
    """Rows (method, milliseconds, ratio to Adam); the first block warms up."""
    arms = {name: Arm(name, width) for name in METHODS}
    for _ in range((blocks + 1) * BLOCK):
        data = torch.randn(batch, 784), torch.randint(10, (batch,))
        for arm in arms.values():
            arm.step(data)
    plain = arms["adam"].blocks[1:]
    rows = []
    for name, arm in arms.items():
        ratios = [mine / its for mine, its in zip(arm.blocks[1:], plain, strict=True)]
        rows.append((name, 1e3 * statistics.median(arm.blocks[1:]), statistics.median(ratios)))
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=12, help=f"blocks of {BLOCK} steps, >= 1")
    args = parser.parse_args()
    if args.blocks < 1:
        parser.error(f"--blocks {args.blocks}: at least one")
    torch.set_num_threads(1)
    machine = f"torch {torch.__version__}, {platform.machine()}, 1 thread"
    print(f"{machine}, {args.blocks} blocks of {BLOCK} steps\n")
    print("| hidden units | batch | method | step, ms | ratio | authors' code |")
    print("|---|---|---|---|---|---|")
    for width, batch, quoted in SETTINGS:
        for name, milliseconds, ratio in measure(width, batch, args.blocks):
            quote = f"{quoted:.2f}" if name == "cbp" else ""
            print(f"| 3 x {width} | {batch} | {name} | {milliseconds:.2f} | {ratio:.2f} | {quote} |")


if __name__ == "__main__":
    main()
