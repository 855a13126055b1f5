"""A training step with isometric layers costs at most half of what its peers' layers cost.

The 512-wide MLP of the benchmark (3 hidden layers and a plain head, MaxMin, cross-entropy, Adam) with
hidden layers of five kinds, timed in turn in one process: plain; ours; ours with its recursion left to
autograd; torch.nn.utils.parametrizations.orthogonal with its default map; deel-torchlip's SpectralLinear.
Every network first trains for --warm-up steps, so that raw weights are as conditioned as training leaves
them (torchlip stops its iteration early on good ones). The last column is the worst deviation of a hidden
singular value from one at the end.

    pip install --no-deps deel-torchlip
    python benchmarks/isometric_layers_cost.py [--inputs 512] [--batch 128] [--threads 1] [--rounds 8]
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from isoplast.nn import IsometricLinear, MaxMin
from isoplast.nn.layers._orthogonalize import orthogonal_factor


class ByAutograd(nn.Linear):
    """The fixed program without our backward, cache and conditioning."""

    def reset_parameters(self) -> None:
        """Start where the others start."""
        nn.init.orthogonal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return Q x + b."""
        return nn.functional.linear(input, orthogonal_factor(self.weight, 7), self.bias)


def parametrised(inputs: int, outputs: int) -> nn.Module:
    """Return torch's orthogonal layer with the map it chooses itself."""
    return orthogonal(nn.Linear(inputs, outputs))


def kinds() -> dict[str, Callable[[int, int], nn.Module]]:
    """Return the layers that can be built here."""
    found: dict[str, Callable[[int, int], nn.Module]] = {
        "plain": nn.Linear,
        "isoplast": IsometricLinear,
        "isoplast, autograd": ByAutograd,
        "torch orthogonal": parametrised,
    }
    if importlib.util.find_spec("deel.torchlip"):
        from deel.torchlip import SpectralLinear

        found["deel-torchlip"] = SpectralLinear
    return found


class Contestant:
    """A network, its optimizer and its times."""

    def __init__(self, layer: Callable[[int, int], nn.Module], inputs: int, device: str) -> None:
        torch.manual_seed(0)
        sizes = [inputs, 512, 512, 512]
        hidden = [m for a, b in itertools.pairwise(sizes) for m in (layer(a, b), MaxMin())]
        self.net = nn.Sequential(*hidden, nn.Linear(512, 10)).to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        self.times: list[float] = []

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        """Train one step and return its milliseconds."""
        _wait(inputs)
        start = time.perf_counter()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.net(inputs), targets).backward()
        self.optimizer.step()
        _wait(inputs)
        return 1e3 * (time.perf_counter() - start)

    @torch.no_grad()
    def deviation(self) -> float:
        """Return the largest distance of a hidden layer's singular value from one."""
        worst = 0.0
        for layer in list(self.net)[:-1:2]:
            eye = torch.eye(layer.in_features, device=next(layer.parameters()).device)
            matrix = layer(eye) - layer(torch.zeros_like(eye))
            worst = max(worst, float((torch.linalg.svdvals(matrix) - 1).abs().max()))
        return worst


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=512)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    contestants = {n: Contestant(k, options.inputs, options.device) for n, k in kinds().items()}
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(1024, options.inputs, generator=generator).to(options.device)
    targets = torch.randint(10, (1024,), generator=generator).to(options.device)
    for round_ in range(options.warm_up + options.rounds):
        rows = torch.randint(1024, (options.batch,), generator=generator).to(options.device)
        for contestant in contestants.values():
            elapsed = contestant.step(inputs[rows], targets[rows])
            if round_ >= options.warm_up:
                contestant.times.append(elapsed)
    ours = statistics.median(contestants["isoplast"].times)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} thread(s), batch {options.batch}")
    print(f"{'layers':>20} {'ms a step':>10} {'times ours':>11} {'max |sigma - 1|':>16}")
    for name, contestant in contestants.items():
        median = statistics.median(contestant.times)
        print(f"{name:>20} {median:10.1f} {median / ours:11.2f} {contestant.deviation():16.1e}")


if __name__ == "__main__":
    main()
