"""The exact NTK: at least 3 x faster than nngeometry 0.4 in no more memory, and with float64's eigenvalues.

`mlp` is the paper's 784-512-512-512-10, `cnn` its convolutional network, both on 28 x 28 images. The peer is
nngeometry's `GramMatrix` with all samples in one batch, its fastest setting. It computes in float32; we sum
in float64 and keep half of the symmetric matrix, which takes as much as a whole one in float32.

Memory is how far the resident memory of a process of its own rises above what it holds after a run on 16
samples (VmHWM over VmRSS, Linux; glibc is told to return what is freed at once, or the figures would be
those of its fragments). Our limit is 0.99 of what the peer took; there is none where all samples at once do
not fit into that. Times are CPU seconds on one thread for the matrix, both sides in one process in turns,
ours within that limit; the ratio is the median over the rounds.

The second line is about what follows: how far the peer's eigenvalues are off, relative to the largest, if
LAPACK finds them in float32 and in float64; and the memory of a process that wants the eigenvalues as well.

    pip install --no-deps nngeometry==0.4
    python benchmarks/ntk_against_nngeometry.py [--networks mlp cnn] [--samples 32 128 512] [--rounds 3]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from nngeometry.gram import GramMatrix
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import ntk
from isoplast.diagnostics.ntk._exact import kernel
from isoplast.diagnostics.ntk._half import Half
from isoplast.diagnostics.ntk._plan import plan
from isoplast.nn import build

OUTPUTS = 10
SETTINGS = {"mlp": {"width": 512, "depth": 3}, "cnn": {}}
UNLIMITED = 2 * 2**30  # the default of ntk()
SHARE = 0.99


def network(name: str) -> nn.Module:
    """Return the network with the weights of seed 0, as a sequence: nngeometry takes each layer once."""
    torch.manual_seed(0)
    model = build(name, input_shape=(1, 28, 28), classes=OUTPUTS, **SETTINGS[name])
    layers: list[nn.Module] = []
    for layer in getattr(model, "convs", ()):
        layers += [layer, nn.ReLU()]
    layers.append(nn.Flatten())
    for layer in model.layers:
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers, model.head).eval()


def images(samples: int) -> Tensor:
    """Return the inputs."""
    return torch.randn(samples, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def ours(model: nn.Module, inputs: Tensor, limit: int = UNLIMITED) -> Half:
    """Return the kernel by this library, half of (n C, n C) in float64."""
    how = plan(model, inputs, dict(model.named_parameters()), "auto")
    return kernel(model, inputs, how, how.division(len(inputs), limit))


def theirs(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the kernel by nngeometry, (C, n, C, n)."""
    found: Tensor = GramMatrix(model, (inputs.clone(), torch.zeros(len(inputs)))).data
    return found


def our_eigenvalues(model: nn.Module, inputs: Tensor, limit: int = UNLIMITED) -> Tensor:
    """Return the eigenvalues by this library."""
    return ntk(model, inputs, memory_limit=limit).eigenvalues


def their_eigenvalues(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return those of nngeometry's matrix, in float32."""
    return torch.linalg.eigvalsh(theirs(model, inputs).view(2 * (len(inputs) * OUTPUTS,)))


SIDES: dict[str, Callable[..., Any]] = {
    "ours": ours,
    "theirs": theirs,
    "our eigenvalues": our_eigenvalues,
    "their eigenvalues": their_eigenvalues,
}


def resident(kind: str) -> int:
    """Return the resident memory of this process in bytes: VmRSS that of now, VmHWM its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if kind in line)
    return 1024 * int(line.split()[1])


def grown(pipe: Connection, side: str, name: str, samples: int, settings: dict[str, int]) -> None:
    """Send by how many bytes the process grows."""
    torch.set_num_threads(1)
    model = network(name)
    inputs = images(samples)
    SIDES[side](model, images(16))  # code and workspaces that stay
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what it freed would serve the next run without a rise
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    SIDES[side](model, inputs, **settings)
    pipe.send(resident("VmHWM") - before)


def memory(side: str, name: str, samples: int, **settings: int) -> int:
    """Return the growth of a process in which one side runs."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=grown, args=(sender, side, name, samples, settings))
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    worker.start()
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    sender.close()
    found: int = receiver.recv()
    worker.join()
    return found


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU time of a run and what it returned."""
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def compare(name: str, samples: int, rounds: int) -> None:
    """Print the lines of one network at one size."""
    model, inputs = network(name), images(samples)
    allowed = memory("theirs", name, samples)
    limit, within = int(SHARE * allowed), "within"
    how = plan(model, inputs, dict(model.named_parameters()), "auto")
    try:
        fits = how.division(samples, limit).size == samples
    except IsoplastError:
        fits = False
    if not fits:
        limit, within = UNLIMITED, "without a limit, in"
    taken = memory("ours", name, samples, limit=limit)
    theirs(model, images(2))
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        (own, half), (peer, other) = (
            seconds(lambda: ours(model, inputs, limit)),
            seconds(lambda: theirs(model, inputs)),
        )
        times.append((own, peer))
    ratios = [peer / own for own, peer in times]
    own, peer = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{name} {samples:4} samples: {own:7.3f} s against {peer:7.3f} s: {statistics.median(ratios):5.1f} x "
        f"({min(ratios):.1f} to {max(ratios):.1f}), {within} {taken / 2**20:.1f} MiB against "
        f"{allowed / 2**20:.1f} MiB",
        flush=True,
    )
    mine = half.whole()
    other = other.permute(1, 0, 3, 2).reshape(mine.shape)
    difference = float((mine - other).abs().max() / mine.abs().max())
    reference = torch.linalg.eigvalsh(mine)
    errors = [
        float((torch.linalg.eigvalsh(matrix) - reference).abs().max() / reference[-1])
        for matrix in (other, other.double())
    ]
    del mine, other
    both = [memory(side, name, samples) / 2**20 for side in ("our eigenvalues", "their eigenvalues")]
    print(
        f"{'':18} entries differ by {difference:.0e} of the largest, its eigenvalues by {errors[0]:.0e} in "
        f"float32, {errors[1]:.0e} in float64; with eigenvalues {both[0]:.1f} against {both[1]:.1f} MiB",
        flush=True,
    )


def main() -> None:
    """Compare at every size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["mlp", "cnn"], choices=("mlp", "cnn"))
    parser.add_argument("--samples", nargs="+", type=int, default=[32, 128, 512])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.networks:
        for samples in options.samples:
            compare(name, samples, options.rounds)


if __name__ == "__main__":
    main()
