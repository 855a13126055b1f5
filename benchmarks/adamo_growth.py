r"""How the cost of isometry grows with width, depth and the number of parameter groups, beside its model.

The exact step is two products of k rows (k the smaller side), 4 m n k operations, where a forward and a
backward pass of a batch of B are 6 m n B: a share of 2 k / (3 B), which "auto" divides by the T steps that it
waits. Measured on one square layer without bias, on one thread, by its processor time; medians.

    python benchmarks/adamo_growth.py [--widths 256 512 1024 2048 4096] [--batch 64] [--figure FILE.svg]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from isoplast import AdamO
from isoplast.isometry import flow_step_, isometry_step_
from isoplast.report.figures._axes import score_scale
from isoplast.report.figures._palette import style
from isoplast.report.figures._svg import Axes, Line, line_chart

LR, ISOMETRY = 1e-3, 1e-2
WAIT = 250  # what "auto" waits at this lr * isometry
TOLERANCE = 0.01  # and what it may be off by


def typical(call: Callable[[], object], seconds: float) -> float:
    """The median time of a call in ms, over as many as fit in the time, at least three."""
    call()
    times: list[float] = []
    end = time.thread_time() + seconds
    while len(times) < 3 or time.thread_time() < end:
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return 1e3 * statistics.median(times)


def by_width(width: int, batch: int, seconds: float) -> tuple[float, float, float]:
    """Forward and backward, the exact step, and a turn of the amortised one, in ms."""
    layer = nn.Linear(width, width, bias=False)
    nn.init.orthogonal_(layer.weight)
    x = torch.randn(batch, width, requires_grad=True)

    def passes() -> None:
        layer(x).sum().backward()

    w = layer.weight.detach()
    c = LR * ISOMETRY
    return (
        typical(passes, seconds),
        typical(lambda: isometry_step_(w, c), seconds),
        typical(lambda: flow_step_(w, WAIT * c, tolerance=TOLERANCE), seconds),
    )


def by_depth(depth: int, every: int, seconds: float) -> tuple[float, float]:
    """A step of fused AdamW and of AdamO for so many 256 x 256 layers, in ms."""
    model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(depth)])
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    adamw = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    adamo = AdamO(model.parameters(), lr=LR, fused=True, isometry_every=every)
    return typical(adamw.step, seconds), typical(adamo.step, seconds)


def by_groups(groups: int, seconds: float) -> tuple[float, float]:
    """A step without a turn for 256 matrices of 16 x 16 in so many groups: AdamW's and AdamO's, in ms."""
    matrices = [nn.Parameter(torch.randn(16, 16)) for _ in range(256)]
    for p in matrices:
        p.grad = torch.randn_like(p)

    def split() -> list[dict[str, object]]:
        return [{"params": matrices[i::groups]} for i in range(groups)]

    adamw = torch.optim.AdamW(split(), lr=LR, fused=True)
    adamo = AdamO(split(), lr=LR, fused=True, isometry_every=10**9)
    return typical(adamw.step, seconds), typical(adamo.step, seconds)


def figure(widths: list[int], exact: list[float], auto: list[float], batch: int) -> str:
    """Shares of forward and backward against the width, and the model, as SVG text."""
    x = np.array(widths, dtype=float)
    curves = {
        f"model: 2k / (3B), B = {batch}": 2 * x / (3 * batch),
        "exact step": np.array(exact),
        f"auto, times its T = {WAIT}": np.array(auto) * WAIT,
    }
    lines = [Line(name, style(i), x, y, y, y) for i, (name, y) in enumerate(curves.items())]
    axes = Axes(
        "Isometry against forward and backward", "width k of a square layer", "ratio of times", log_x=True
    )
    return line_chart(lines, axes, score_scale(0.0, float(max(y.max() for y in curves.values()))))


def main() -> None:
    """Prints the tables, and draws the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0, help="processor time for each number")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        "| width | forward + backward, ms | exact, ratio | auto, ratio | 2k / (3B) |\n|---|---|---|---|---|"
    )
    exact, auto = [], []
    for width in args.widths:
        passes, one, turn = by_width(width, args.batch, args.seconds)
        exact.append(one / passes)
        auto.append(turn / WAIT / passes)
        model = 2 * width / (3 * args.batch)
        print(f"| {width} | {passes:.2f} | {exact[-1]:.2f} | {auto[-1]:.4f} | {model:.2f} |", flush=True)
    print("\n| layers of 256 x 256 | AdamW, ms | exact AdamO, ms | isometry, ms a layer |\n|---|---|---|---|")
    for depth in args.depths:
        adamw, adamo = by_depth(depth, 1, args.seconds)
        print(f"| {depth} | {adamw:.2f} | {adamo:.2f} | {(adamo - adamw) / depth:.2f} |", flush=True)
    print("\n| groups | AdamW, ms | AdamO without a turn, ms |\n|---|---|---|")
    for groups in args.groups:
        adamw, adamo = by_groups(groups, args.seconds)
        print(f"| {groups} | {adamw:.2f} | {adamo:.2f} |", flush=True)
    if args.figure is not None:
        args.figure.write_text(figure(args.widths, exact, auto, args.batch), encoding="utf-8")


if __name__ == "__main__":
    main()
