"""Isometric MaxMin networks fit every 1-Lipschitz function; isometric ReLU networks do not.

    python examples/lipschitz_fit.py [--quick]

Three targets with a known optimum, each wanting slope one everywhere:

    |x|      in 1 dimension, by regression.
    cone     the norm |x| in 8 dimensions, by regression.
    dual     the Wasserstein distance between the origin and the unit sphere of 64 dimensions, from its
             dual: maximise E_q f - E_p f over 1-Lipschitz f. The distance is 1, reached by f = |x| alone.

All layers of an isometric network, the head included, have singular values one, so it is 1-Lipschitz
whatever it learns. A MaxMin layer only permutes, so the gradient can have norm one everywhere. A ReLU
network with slope one everywhere needs every gate open, which makes it linear (Anil et al. 2019,
theorem 1). Depth matters: every MaxMin folds the space once more, and |x| is an infinite number of
folds. On the dual target three hidden layers reach 93.7 %, five 96.9 % and eight 98.6 %. Needs torch
and isoplast alone; takes about half a minute on two cores.
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from isoplast.nn import IsometricLinear, MaxMin, isometric_init_

QUICK = "--quick" in sys.argv
BATCH, TEST = 256, 8192


def sphere(n: int, d: int) -> Tensor:
    x = torch.randn(n, d)
    return x / x.norm(dim=1, keepdim=True)


def ball(n: int, d: int) -> Tensor:
    """Uniform in direction and in length, up to length one."""
    return sphere(n, d) * torch.rand(n, 1)


@dataclass(frozen=True)
class Target:
    """What to learn: inputs of d dimensions, a network of that size, steps and learning rate."""

    name: str
    d: int
    width: int
    depth: int
    steps: int
    lr: float
    dual: bool = False

    def loss(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        if self.dual:
            return f(torch.zeros(1, self.d)).mean() - f(sphere(BATCH, self.d)).mean()
        x = ball(BATCH, self.d)
        return (f(x) - x.norm(dim=1)).abs().mean()

    def achieved(self, f: Callable[[Tensor], Tensor]) -> float:
        """1 at the optimum: the distance found, or the share of the target's mean deviation explained."""
        if self.dual:
            return (f(sphere(TEST, self.d)).mean() - f(torch.zeros(1, self.d)).mean()).item()
        x = ball(TEST, self.d)
        target = x.norm(dim=1)
        return 1 - ((f(x) - target).abs().mean() / (target - target.median()).abs().mean()).item()


SHORTER = 8 if QUICK else 1
TARGETS = (
    Target("|x|", d=1, width=32, depth=2, steps=400, lr=1e-2),
    Target("cone", d=8, width=64, depth=6, steps=1000 // SHORTER, lr=1e-2),
    Target("dual", d=64, width=128, depth=8, steps=600 // SHORTER, lr=5e-3, dual=True),
)
NETWORKS: dict[str, tuple[type[nn.Linear], type[nn.Module]]] = {
    "isometric MaxMin": (IsometricLinear, MaxMin),
    "isometric ReLU": (IsometricLinear, nn.ReLU),
    "free MaxMin": (nn.Linear, MaxMin),
    "free ReLU": (nn.Linear, nn.ReLU),
}


def network(name: str, target: Target) -> nn.Sequential:
    linear, activation = NETWORKS[name]
    layers: list[nn.Module] = []
    features = target.d
    for _ in range(target.depth):
        layers += [linear(features, target.width), activation()]
        features = target.width
    model = nn.Sequential(*layers, linear(features, 1))
    isometric_init_(model)
    return model


def slopes(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The norm of the gradient at every point."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0].norm(dim=1)


def steepest_pairs(f: Callable[[Tensor], Tensor], d: int) -> float:
    """The largest |f(x) - f(y)| / |x - y| over random pairs and over pairs that climbed that quotient."""

    def quotient() -> Tensor:
        return (f(x) - f(y)).abs() / (x - y).norm(dim=1).clamp_min(1e-3)  # closer, rounding would show

    x, y = ball(512, d).requires_grad_(), ball(512, d).requires_grad_()
    climb = torch.optim.Adam([x, y], lr=1e-2, maximize=True)
    best = 0.0
    for _ in range(60):
        climb.zero_grad()
        value = quotient()
        best = max(best, value.max().item())
        value.sum().backward()
        climb.step()
    return best


@dataclass(frozen=True)
class Result:
    achieved: float
    lipschitz: float
    line: str


def run(target: Target, name: str) -> Result:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = network(name, target)
    start = time.process_time()
    optimizer = torch.optim.Adam(model.parameters(), lr=target.lr)
    schedule = OneCycleLR(optimizer, target.lr, total_steps=target.steps + 1, pct_start=0.1)

    def f(x: Tensor) -> Tensor:
        return model(x)[:, 0]

    for _ in range(target.steps):
        optimizer.zero_grad()
        target.loss(f).backward()
        optimizer.step()
        schedule.step()
    seconds = time.process_time() - start

    # Measured in float64: the unbounded ones are too steep to be squared in float32.
    torch.set_default_dtype(torch.float64)
    model.double().eval().requires_grad_(False)
    points = ball(TEST, target.d)
    slope = slopes(f, points)
    achieved, lipschitz = target.achieved(f), max(slope.max().item(), steepest_pairs(f, target.d))
    torch.set_default_dtype(torch.float32)
    above = "-"
    if lipschitz > 1.001:
        share, length = (slope > 1.001).float().mean().item(), points[slope.argmax()].norm().item()
        above = f"{share:.0%} of the inputs, steepest at |x| = {length:.2f}"
    percent = f"{100 * achieved:.2f} %" if achieved < 10 else f"{100 * achieved:.1e} %"
    line = f"{target.name:8s}{name:18s}{percent:>12s}{lipschitz:11.4g}{slope.median():14.4g}"
    return Result(achieved, lipschitz, f"{line}{seconds:8.1f} s   {above}")


if __name__ == "__main__":
    jobs = [(target, name) for target in TARGETS for name in NETWORKS]
    print("target  network              achieved  Lipschitz  median slope      time   slope above 1")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        results = []
        for result in pool.map(run, *zip(*jobs, strict=True)):
            results.append(result)
            print(result.line, flush=True)
    maxmin, relu = (results[k :: len(NETWORKS)] for k in (0, 1))
    print(
        f"\nisometric MaxMin: at least {min(r.achieved for r in maxmin):.1%} of every optimum, "
        f"slope at most {max(r.lipschitz for r in maxmin):.4f}"
        f"\nisometric ReLU: at most {max(r.achieved for r in relu):.1%} of any optimum"
    )
