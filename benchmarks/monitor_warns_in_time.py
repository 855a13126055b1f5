"""Monitor warns while a network that loses plasticity still does well, and is silent where all goes well.

Loses it: random labels of 1280 handwritten digits, Adam at 3e-3, an MLP of width 128, 500 steps a task, ten
seeds; asked is a warning while the accuracy at the end of a task is above 80 % of that of the first task.
Goes well: twenty trainings of several kinds of networks with their true labels. At last seven streams that
are learned well, but for one. Monitor has its defaults and is given the optimizer and 256 inputs, or the
number of steps as well. On a machine that others use, too, --cpu counts the time of this process alone.

    python benchmarks/monitor_warns_in_time.py [--seeds 10] [--steps] [--cpu]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from isoplast import AdamO, Monitor
from isoplast.diagnostics.monitor import _monitor
from isoplast.nn import build

TASKS, STEPS, BATCH = 10, 500, 64


def digits() -> tuple[Tensor, Tensor]:
    """1280 standardised images of 64 pixels, and their labels."""
    found = load_digits()
    x = torch.tensor(found.data[:1280], dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(found.target[:1280])


def mlp(units: type[nn.Module] = nn.ReLU, width: int = 128, norm: bool = False) -> nn.Module:
    """Three hidden layers with torch's initialisation."""
    layers: list[nn.Module] = []
    for inputs in (64, width, width):
        layers += [nn.Linear(inputs, width), *([nn.LayerNorm(width)] if norm else []), units()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class Training:
    """A network with its monitor."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, steps: int | None
    ) -> None:
        self.model, self.optimizer, self.x = model, optimizer, x
        self.monitor = Monitor(model, optimizer, inputs=x[:256], steps=steps, warn=False)
        self.inside = self.whole = 0.0

    def learn(self, y: Tensor, steps: int) -> float:
        """Train, and return the accuracy then."""
        start, order = time.perf_counter(), torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(order) < BATCH:
                order = torch.randperm(len(self.x))
            rows, order = order[:BATCH], order[BATCH:]
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self.x[rows]), y[rows]).backward()
            self.optimizer.step()
            before = time.perf_counter()
            self.monitor.step()
            self.inside += time.perf_counter() - before
        self.whole += time.perf_counter() - start
        self.monitor.pause()
        with torch.no_grad():
            return float((self.model(self.x).argmax(1) == y).double().mean())

    @property
    def first(self) -> tuple[int, str] | None:
        """The step of the first finding that is no note, and what it says."""
        found = [(step, one) for step, one in self.monitor.findings if one.severity != "note"]
        return (found[0][0], found[0][1].what) if found else None

    @property
    def share(self) -> float:
        """Measuring time over training time, without what the clock takes."""
        clock = self.monitor.total_steps * _clock_cost()
        return (self.inside - clock) / (self.whole - self.inside - clock)


def _clock_cost() -> float:
    """Seconds that a pair of readings of the clock shows by itself; the call takes as much again outside."""
    pairs = [-(time.perf_counter() - time.perf_counter()) for _ in range(1000)]
    return sorted(pairs)[500]


def losing(seed: int, known: bool) -> tuple[list[float], Training]:
    """A stream of random labels."""
    torch.manual_seed(seed)
    model, (x, _) = mlp(), digits()
    training = Training(
        model, torch.optim.Adam(model.parameters(), lr=3e-3), x, TASKS * STEPS if known else None
    )
    return [training.learn(torch.randint(10, (len(x),)), STEPS) for _ in range(TASKS)], training


def going_well() -> Iterator[tuple[str, nn.Module, Callable[[nn.Module], torch.optim.Optimizer], Tensor]]:
    """Twenty trainings: a name, a network, its optimizer, and inputs."""
    x = digits()[0]
    adam = lambda lr: lambda model: torch.optim.Adam(model.parameters(), lr=lr)  # noqa: E731
    sgd = lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # noqa: E731
    adamw = lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)  # noqa: E731
    adamo = lambda model: AdamO(model.parameters(), lr=1e-3, isometry=1e-2)  # noqa: E731
    small = {"width": 32, "depth": 2, "heads": 2, "patch": 2}
    for name, make in (("Adam 1e-3", adam(1e-3)), ("Adam 3e-3", adam(3e-3)), ("SGD", sgd), ("AdamW", adamw)):
        yield f"MLP, {name}", mlp(), make, x
    yield "MLP, AdamO", mlp(), adamo, x
    yield "narrow MLP", mlp(width=32), adam(1e-3), x
    yield "wide MLP", mlp(width=256), adam(1e-3), x
    for name, units in (("tanh", nn.Tanh), ("GELU", nn.GELU), ("leaky", nn.LeakyReLU), ("ELU", nn.ELU)):
        yield f"{name} MLP", mlp(units), adam(1e-3), x
    yield "tanh MLP, SGD", mlp(nn.Tanh), sgd, x
    yield "LayerNorm MLP", mlp(norm=True), adam(1e-3), x
    yield "LayerNorm MLP, SGD", mlp(norm=True), sgd, x
    images = x.view(-1, 1, 8, 8)
    for norm in (None, "batchnorm"):
        for init in ("orthogonal", "torch"):
            options = {"channels": 8, "width": 64, "normalization": norm, "init": init}
            yield (
                f"CNN, {norm}, {init}",
                build("cnn", input_shape=(1, 8, 8), classes=10, **options),
                adam(1e-3),
                images,
            )
    yield "ViT", build("vit", input_shape=(1, 8, 8), classes=10, **small), adam(1e-3), images
    yield "softmax", nn.Sequential(nn.Linear(64, 10)), adam(1e-2), x


def streams() -> Iterator[tuple[str, nn.Module, Callable[[nn.Module], torch.optim.Optimizer], str]]:
    """Streams that do not collapse: random labels, and true labels whose names change."""
    adam = lambda lr: lambda model: torch.optim.Adam(model.parameters(), lr=lr)  # noqa: E731
    adamo = lambda model: AdamO(model.parameters(), lr=3e-3, isometry=1e-2)  # noqa: E731
    sgd = lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # noqa: E731
    yield "random labels, AdamO", mlp(), adamo, "random"
    yield "random labels, Adam 3e-4", mlp(), adam(3e-4), "random"
    yield "random labels, tanh, Adam 1e-3", mlp(nn.Tanh), adam(1e-3), "random"
    yield "names, Adam 1e-3", mlp(), adam(1e-3), "names"
    yield "names, AdamO", mlp(), adamo, "names"
    yield "names, SGD", mlp(), sgd, "names"
    yield "names, LayerNorm, Adam 1e-3", mlp(norm=True), adam(1e-3), "names"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", action="store_true", help="tell Monitor the number of steps")
    parser.add_argument("--cpu", action="store_true", help="count the time of this process alone")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--healthy-steps", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if args.cpu:
        time.perf_counter = _monitor.perf_counter = time.process_time
    in_time = 0
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        scores, training = losing(seed, args.steps)
        first = training.first
        last_good = next((i for i, score in enumerate(scores) if score < 0.8 * scores[0]), TASKS) * STEPS
        in_time += first is not None and first[0] <= last_good
        said = "no warning" if first is None else f"warning at step {first[0]}: {first[1]}"
        shown = " ".join(f"{score:.2f}" for score in scores)
        print(f"seed {seed}: {shown}; above 80 % to step {last_good}; {said}; {training.share:.2%}")
    print(f"warned in time: {in_time} of {args.seeds}\n")
    silent = 0
    for name, model, make, x in going_well():
        torch.manual_seed(0)
        training = Training(model, make(model), x, args.healthy_steps if args.steps else None)
        score = training.learn(digits()[1], args.healthy_steps)
        silent += training.first is None
        print(f"{name}: accuracy {score:.2f}; {training.first or 'silent'}; {training.share:.2%}")
    print(f"silent: {silent} of 20\n")
    for name, model, make, kind in streams():
        torch.manual_seed(0)
        x, y = digits()
        training = Training(model, make(model), x, TASKS * STEPS if args.steps else None)
        draw = {
            "names": lambda y=y: torch.randperm(10)[y],
            "random": lambda x=x: torch.randint(10, (len(x),)),
        }
        tasks = [draw[kind]() for _ in range(TASKS)]
        scores = [training.learn(task, STEPS) for task in tasks]
        print(f"{name}: {' '.join(f'{score:.2f}' for score in scores)}; {training.first or 'silent'}")


if __name__ == "__main__":
    main()
