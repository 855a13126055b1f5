"""AdamO costs what AdamW costs on a GPU, at a size that people train: a GPT of 124 M parameters.

One network under bfloat16 autocast; each optimizer has a state of its own and moves the same weights when it
is its turn. A training step is --tokens tokens in micro-batches and then the optimizer; its median is over
--rounds rounds in random order. The optimizer steps are timed alone as well: over two whole periods of
"auto", as only a few of its steps move a matrix. "sum" is the median forward and backward plus that mean,
over AdamW's. Beside the exact mode stands the model: 4 k operations per weight in float32, where training
takes 6 per weight and token.

Then the paper's MLP at batch 16, where sending the work takes longer than doing it: step by step, and the
whole training step replayed as one CUDA graph.

    python benchmarks/adamo_on_a_gpu.py [--tokens 65536] [--rounds 8] [--compile]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from isoplast import AdamO, param_groups
from isoplast.nn import build
from isoplast.optim import muon_with_adam

LR, CONTEXT, VOCABULARY = 1e-3, 1024, 50304
PERIOD = 250  # steps between two turns of a matrix at the default strength and this learning rate
WARM = 3


def gpt(width: int, depth: int) -> nn.Module:
    """GPT-2 small: its output layer is its token table."""
    model = build(
        "gpt",
        input_shape=(CONTEXT,),
        classes=VOCABULARY,
        width=width,
        depth=depth,
        heads=width // 64,
        activation="gelu",
        init="torch",
    )
    nn.init.normal_(model.tokens.weight, std=0.02)
    model.head = nn.Linear(width, VOCABULARY, bias=False)
    model.head.weight = model.tokens.weight
    return model.cuda()


def optimizers(model: nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Fused AdamW first, and what is compared with it."""
    return {
        "AdamW (fused)": torch.optim.AdamW(model.parameters(), lr=LR, fused=True),
        'AdamO, isometry_every="auto"': AdamO(model, lr=LR, fused=True),
        "AdamO, isometry_every=1": AdamO(model, lr=LR, fused=True, isometry_every=1),
        "AdamW (foreach)": torch.optim.AdamW(model.parameters(), lr=LR, foreach=True),
        "Muon and Adam": muon_with_adam(model, LR),
    }


def elapsed(work: Callable[[], object]) -> float:
    """How long the device takes, in ms."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def repeated(work: Callable[[], object], times: int) -> Callable[[], object]:
    return lambda: [work() for _ in range(times)]


def sending(step: Callable[[], object], times: int = 8) -> float:
    """How long the host takes for a step, in ms."""
    torch.cuda.synchronize()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        step()
        found.append(1e3 * (time.perf_counter() - start))
    torch.cuda.synchronize()
    return statistics.median(found)


def large(args: argparse.Namespace) -> None:
    """The GPT."""
    model = gpt(args.width, args.depth)
    isometric = sum(
        p.numel() for group in param_groups(model) for _, p in group["params"] if group.get("isometry") != 0
    )
    total = sum(p.numel() for p in model.parameters())
    micro = min(args.micro, args.tokens // CONTEXT)
    batches = [
        torch.randint(VOCABULARY, (micro, CONTEXT + 1), device="cuda")
        for _ in range(args.tokens // CONTEXT // micro)
    ]
    run = torch.compile(model) if args.compile else model

    def train() -> None:
        for tokens in batches:
            with torch.autocast("cuda", torch.bfloat16):
                outputs = run(tokens[:, :-1])
                loss = nn.functional.cross_entropy(outputs.flatten(0, 1), tokens[:, 1:].flatten())
            (loss / len(batches)).backward()

    repeated(train, WARM)()
    compared = optimizers(model)
    steps = {}
    for name, optimizer in compared.items():
        every = args.steps if "auto" in name or "fused" in name else max(25, args.steps // 10)
        repeated(optimizer.step, WARM)()
        steps[name] = (elapsed(repeated(optimizer.step, every)) / every, sending(optimizer.step))
    model.zero_grad(set_to_none=False)
    passes: list[float] = []
    wholes: dict[str, list[float]] = {name: [] for name in compared}
    order = random.Random(0)
    for _ in range(args.rounds):
        for name in order.sample(list(compared), len(compared)):
            passed = elapsed(train)
            passes.append(passed)
            wholes[name].append(elapsed(lambda: (train(), compared[name].step())))  # noqa: B023
            model.zero_grad(set_to_none=False)
    once = statistics.median(passes)
    base_step, base = steps["AdamW (fused)"][0], statistics.median(wholes["AdamW (fused)"])
    how = "compiled" if args.compile else "eager"
    print(
        f"\nGPT {args.depth} x {args.width}, {total / 1e6:.0f} M parameters, "
        f"{isometric / 1e6:.0f} M isometric, "
        f"{args.tokens} tokens a step, {how}: forward and backward {once:.1f} ms, "
        f"{6 * total * args.tokens / once / 1e9:.0f} TFLOP/s\n"
    )
    print("| optimizer | step, device ms | host ms | sum, ratio | whole step, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for name, (device, host) in steps.items():
        whole = statistics.median(wholes[name])
        print(
            f"| {name} | {device:.2f} | {host:.2f} | {(once + device) / (once + base_step):.4f} "
            f"| {whole:.1f} | {whole / base:.4f} |"
        )
    work = 4 * isometric * args.width
    extra = steps["AdamO, isometry_every=1"][0] - base_step
    print(
        f"\nexact: {work / 1e9:.0f} GFLOP in float32 in {extra:.2f} ms more than AdamW's, "
        f"{work / extra / 1e9:.0f} TFLOP/s; "
        f"{work / (6 * total * args.tokens):.2%} of the operations of training"
    )


def small(rounds: int) -> None:
    """The paper's MLP, and graphs of the whole step."""
    x, y = torch.randn(16, 784, device="cuda"), torch.randint(10, (16,), device="cuda")
    makers: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
        "AdamW (fused)": lambda m: torch.optim.AdamW(m.parameters(), lr=LR, fused=True, capturable=True),
        'AdamO, isometry_every="auto"': lambda m: AdamO(m, lr=LR, fused=True),
        "AdamO, isometry_every=1": lambda m: AdamO(m, lr=LR, fused=True, isometry_every=1),
        "AdamO, capturable (exact)": lambda m: AdamO(m, lr=LR, fused=True, capturable=True),
    }
    print("\n| MLP 784-512-512-512-10, batch 16 | step by step, ms | ratio | one graph, ms | ratio |")
    print("|---|---|---|---|---|")
    base: tuple[float, float] = (0.0, 0.0)
    for name, make in makers.items():
        torch.manual_seed(0)
        model = build("mlp", input_shape=(784,), classes=10, width=512, depth=3).cuda()
        optimizer = make(model)

        def step(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            repeated(step, 10)()
        torch.cuda.current_stream().wait_stream(side)
        eager = min(elapsed(repeated(step, 2 * PERIOD)) / (2 * PERIOD) for _ in range(rounds))
        replayed = float("nan")
        if optimizer.param_groups[0]["capturable"]:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            replayed = min(elapsed(repeated(graph.replay, 2 * PERIOD)) / (2 * PERIOD) for _ in range(rounds))
        base = base if base[0] else (eager, replayed)
        print(f"| {name} | {eager:.3f} | {eager / base[0]:.2f} | {replayed:.3f} | {replayed / base[1]:.2f} |")


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=65536, help="of a training step, a multiple of 1024")
    parser.add_argument("--micro", type=int, default=16, help="sequences that go through at once")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2 * PERIOD)
    parser.add_argument("--compile", action="store_true", help="compile the network's forward and backward")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("needs a CUDA device")
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    large(args)
    small(5)


if __name__ == "__main__":
    main()
