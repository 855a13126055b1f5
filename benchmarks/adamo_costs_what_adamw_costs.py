"""AdamO costs what AdamW costs: the optimizer step and the whole training step, side by side.

The paper's MLP (784-512-512-512-10). All variants run in one process and take turns in random order, so that
a busy machine slows all of them alike; the table gives ratios to fused AdamW. Times are those of the thread
on its processor (--clock cpu, needs --threads 1) or of the wall. The dear variants run in every 25th round.
torch.optim.Muon (torch >= 2.9) and POGO (`pip install pogo-torch`) are there if they are installed; both
leave the vectors to fused AdamW.

    python benchmarks/adamo_costs_what_adamw_costs.py [--rounds 1250] [--batches 16 256] [--clock wall]
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from isoplast import AdamO, isometry_penalty
from isoplast.isometry import flow_step_, isometry_step_
from isoplast.nn import build

LR = 1e-3
# "auto" waits 250 steps at the default strength: all of its steps differ, and come again after as many.
PERIOD = 250
DEAR = 25
Optimizers = Sequence[torch.optim.Optimizer]


class Variant:
    """One way to train: a model of its own, its optimizers, and the times of its steps."""

    def __init__(
        self,
        model: nn.Module,
        make: Callable[[nn.Module], Optimizers],
        *,
        penalised: bool = False,
        every: int = 1,
    ) -> None:
        self.model = copy.deepcopy(model)
        self.optimizers = make(self.model)
        self.penalised = penalised
        self.every = every
        self.step_times: list[float] = []
        self.whole_times: list[float] = []

    def train(self, x: Tensor, y: Tensor, clock: Callable[[], float]) -> None:
        """One training step, timed in two parts."""
        start = clock()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(x), y)
        if self.penalised:
            loss = loss + 1e-2 * isometry_penalty(self.model)
        loss.backward()
        middle = clock()
        for optimizer in self.optimizers:
            optimizer.step()
        end = clock()
        self.step_times.append(end - middle)
        self.whole_times.append(end - start)

    def typical(self, times: Sequence[float]) -> float:
        """A step's time in ms, without the first tenth: the median over repetitions of each of the period's
        steps, and the mean over the period. The few steps in which a matrix acts count as often as they come;
        a median over all steps would leave them out.
        """
        period = PERIOD // self.every
        warm = len(times) // 10
        phases = [times[k::period][-(-(warm - k) // period) if warm > k else 0 :] for k in range(period)]
        return 1e3 * statistics.fmean(map(statistics.median, phases))


def fused_adamw(params: Iterable[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=LR, fused=True)


def beside_adamw(
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
) -> Callable[[nn.Module], Optimizers]:
    """An optimizer for the matrices, and fused AdamW for the rest."""

    def both(model: nn.Module) -> Optimizers:
        matrices = [p for p in model.parameters() if p.ndim == 2]
        return make(matrices), fused_adamw(p for p in model.parameters() if p.ndim != 2)

    return both


def pogo(matrices: list[Tensor]) -> torch.optim.Optimizer:
    """POGO on wide matrices, which it asks to be orthogonal from the start, with its form of Adam."""
    from pogo import POGO, base

    for p in matrices:
        nn.init.orthogonal_(p)
    found: torch.optim.Optimizer = POGO(matrices, base.VectorAdam(), LR, flatten_fn=lambda p: p[None])
    return found


def variants(model: nn.Module) -> dict[str, Variant]:
    """The peers: fused AdamW, AdamO in both modes, Muon, POGO, and the penalty in the loss."""
    found = {
        "AdamW (fused)": Variant(model, lambda m: [fused_adamw(m.parameters())]),
        'AdamO, isometry_every="auto"': Variant(model, lambda m: [AdamO(m, lr=LR, fused=True)]),
        "AdamO, isometry_every=1": Variant(
            model, lambda m: [AdamO(m, lr=LR, fused=True, isometry_every=1)], every=DEAR
        ),
    }
    if hasattr(torch.optim, "Muon"):
        found["Muon"] = Variant(model, beside_adamw(lambda ps: torch.optim.Muon(ps, lr=LR)), every=DEAR)
    if importlib.util.find_spec("pogo") is not None:
        found["POGO"] = Variant(model, beside_adamw(pogo), every=DEAR)
    found["AdamW (fused) + penalty in the loss"] = Variant(
        model, lambda m: [fused_adamw(m.parameters())], penalised=True, every=DEAR
    )
    return found


def measure(
    batch: int, rounds: int, clock: Callable[[], float]
) -> list[tuple[str, float, float, float, float]]:
    """Rows (name, optimizer ms, its ratio, whole-step ms, its ratio)."""
    torch.manual_seed(0)
    runs = variants(build("mlp", input_shape=(784,), classes=10, width=512, depth=3))
    x, y = torch.randn(batch, 784), torch.randint(10, (batch,))
    order = random.Random(0)
    for number in range(rounds):
        running = [run for run in runs.values() if number % run.every == 0]
        for run in order.sample(running, len(running)):
            run.train(x, y, clock)
    base = next(iter(runs.values()))
    rows = []
    for name, run in runs.items():
        step, whole = run.typical(run.step_times), run.typical(run.whole_times)
        rows.append(
            (name, step, step / base.typical(base.step_times), whole, whole / base.typical(base.whole_times))
        )
    return rows


def without_a_turn(rounds: int, clock: Callable[[], float], copies: int = 8) -> tuple[float, float, float]:
    """What a step in which no matrix acts takes for 200 parameters of fused AdamW, and what AdamO takes more
    for a model (two groups) and for its parameters (one), in us.

    Where a copy's tensors lie in memory moves its median by up to 5 %: these are medians over several copies,
    created and run in random order.
    """
    model = nn.Sequential(*[nn.Linear(16, 16) for _ in range(100)])
    makers: list[Callable[[nn.Module], torch.optim.Optimizer]] = [
        lambda m: fused_adamw(m.parameters()),
        lambda m: AdamO(m, lr=LR, fused=True, isometry_every=10**9),
        lambda m: AdamO(m.parameters(), lr=LR, fused=True, isometry_every=10**9),
    ]
    order = random.Random(0)
    runs = order.sample([*range(len(makers))] * copies, len(makers) * copies)
    optimizers = []
    for kind in runs:
        copied = copy.deepcopy(model)
        for p in copied.parameters():
            p.grad = torch.randn_like(p)
        optimizers.append(makers[kind](copied))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for which in order.sample(range(len(runs)), len(runs)):
            start = clock()
            optimizers[which].step()
            times[which].append(1e6 * (clock() - start))
    adamw, whole, single = (
        statistics.median(
            statistics.median(of[rounds // 10 :]) for k, of in zip(runs, times, strict=True) if k == kind
        )
        for kind in range(len(makers))
    )
    return adamw, whole - adamw, single - adamw


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
    parser.add_argument("--rounds", type=int, default=1250, help="training steps (>= 500)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 256])
    args = parser.parse_args()
    if args.rounds < 500:
        parser.error(f"--rounds {args.rounds}: at least 500, to have seen each step of the period")
    if args.clock == "cpu" and args.threads != 1:
        parser.error(f"--threads {args.threads}: the time of one thread says nothing: give --clock wall")
    clock = time.thread_time if args.clock == "cpu" else time.perf_counter
    torch.set_num_threads(args.threads)
    machine = f"torch {torch.__version__}, {platform.machine()}, {args.threads} threads"
    print(f"{machine}, n={args.rounds} steps, {args.clock} clock\n")
    print("| batch | variant | optimizer step, ms | ratio | whole step, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for batch in args.batches:
        for name, step, step_ratio, whole, whole_ratio in measure(batch, args.rounds, clock):
            print(f"| {batch} | {name} | {step:.2f} | {step_ratio:.2f} | {whole:.2f} | {whole_ratio:.2f} |")
    adamw, model, params = without_a_turn(args.rounds // 2, clock)
    print(
        f"\na step without a turn, 200 parameters: AdamW {adamw:.0f} us, AdamO(model) {model:+.1f} us more, "
        f"AdamO(model.parameters()) {params:+.1f}"
    )
    for name, ratio in extra_memory():
        print(f"extra memory of the {name}: {ratio:.2f} x (the matrix plus its Gram)")


if __name__ == "__main__":
    main()
