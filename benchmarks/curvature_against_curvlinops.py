"""Curvature: the numbers of curvlinops 3.0, no slower, for products with a vector and for the sharpness.

`mlp` is the paper's 784-512-512-512-10, `cnn` its convolutional network, both on 28 x 28 images and ten
classes under cross-entropy; Hessian and Gauss-Newton matrix; all samples at once, and in batches. Times are
CPU seconds on one thread, both sides in one process in turns; ratios are medians over the rounds. The
sharpness is the largest eigenvalue: ours by `curvature(steps=STEPS, probes=1)`, theirs by scipy's `eigsh` on
the operator's `to_scipy()` with a basis of STEPS vectors and as many products, from a start of its own.

    pip install --no-deps curvlinops-for-pytorch==3.0.1 backpack-for-pytorch einconv linear-operator unfoldNd
    python benchmarks/curvature_against_curvlinops.py [--networks mlp cnn] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from curvlinops import GGNLinearOperator, HessianLinearOperator
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import nn
from torch.nn.functional import cross_entropy

from isoplast.diagnostics import curvature
from isoplast.diagnostics.loss._curvature import _product
from isoplast.diagnostics.loss._objective import Objective
from isoplast.nn import build

STEPS = 20
CASES = {"mlp": ((128, 128), (512, 128)), "cnn": ((64, 64), (64, 16))}
SETTINGS: dict[str, dict[str, Any]] = {"mlp": {"width": 512, "depth": 3}, "cnn": {}}
OPERATORS = {"hessian": HessianLinearOperator, "gauss-newton": GGNLinearOperator}


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU time of a run and what it returned."""
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> tuple[str, Any, Any]:
    """Return both median times with their ratio in words, and what both returned last."""
    times, mine, other = [], None, None
    for _ in range(rounds):
        (own, mine), (peer, other) = seconds(ours), seconds(theirs)
        times.append((own, peer))
    own, peer = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    return f"{1e3 * own:7.1f} ms against {1e3 * peer:7.1f} ms: {ratio:4.2f} x", mine, other


def largest(operator: Any) -> float:
    """Return the largest eigenvalue after as many products as our Lanczos steps."""
    try:
        return float(eigsh(operator.to_scipy(), k=1, which="LA", ncv=STEPS, maxiter=1, tol=1e-2)[0][0])
    except ArpackNoConvergence:
        return float("nan")


def compare(name: str, kind: str, samples: int, batch: int, rounds: int) -> None:
    """Print the lines of one network, one matrix and one way to take the samples."""
    torch.manual_seed(0)
    model = build(name, input_shape=(1, 28, 28), classes=10, **SETTINGS[name]).eval()
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(samples, 1, 28, 28, generator=generator), torch.arange(samples) % 10
    batches = [(inputs[i : i + batch], targets[i : i + batch]) for i in range(0, samples, batch)]
    operator = OPERATORS[kind](
        model, nn.CrossEntropyLoss(), list(model.parameters()), batches, check_deterministic=False
    )
    objective = Objective(model, inputs, targets, cross_entropy, batch)
    product = _product(objective, kind)
    vector = torch.randn(objective.size, generator=generator)
    product(vector), operator @ vector
    words, mine, other = in_turns(lambda: product(vector), lambda: operator @ vector, rounds)
    difference = float((mine - other).norm() / other.norm())
    title = f"{name} {kind}, {samples} samples, {batch} at once"
    print(f"{title:45} product   {words}; relative difference {difference:.0e}")

    def sharpness() -> float:
        found = curvature(model, inputs, targets, kind=kind, top=1, steps=STEPS, probes=1, batch_size=batch)
        return found.sharpness

    words, value, reference = in_turns(sharpness, lambda: largest(operator), max(1, rounds // 2))
    print(f"{'':45} sharpness {words}; {value:.6g} and {reference:.6g}", flush=True)


def main() -> None:
    """Compare every case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.networks:
        for samples, batch in CASES[name]:
            for kind in OPERATORS:
                compare(name, kind, samples, batch, options.rounds)


if __name__ == "__main__":
    main()
