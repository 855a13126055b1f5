"""What the recorded networks learn: images, numbers and text, in tasks of one kind after another."""

from __future__ import annotations

import functools
import math
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from isoplast.data import load_data

CONTEXT = 16  # characters that a text network reads
_SYMBOLS = string.ascii_lowercase + " "


@dataclass(frozen=True, eq=False)
class Task:
    """Inputs with targets, and examples held out where there is anything to generalise to."""

    inputs: Tensor
    targets: Tensor
    held_inputs: Tensor | None = None
    held_targets: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """A data set with ways to make one task after another of it.

    Attributes:
        shape: of one input.
        outputs: of a network.
        loss: "classes", "tokens" (scored by the loss below the best constant guess) or "numbers".
        guess: loss of the best constant guess; chance accuracy for "classes".
        make: (kind, index) -> task; kinds are "true", "shift", "random", "inputs" and "half".
    """

    shape: tuple[int, ...]
    outputs: int
    loss: str
    guess: float
    make: Callable[[str, int], Task]

    def task(self, kind: str, index: int) -> Task:
        """The task at a place of a sequence of its kind."""
        return self.make(kind, index)

    def objective(self, found: Tensor, targets: Tensor) -> Tensor:
        """The mean loss."""
        if self.loss == "numbers":
            return functional.mse_loss(found, targets)
        return functional.cross_entropy(found.flatten(0, -2), targets.flatten())

    def score(self, loss: float, accuracy: float) -> float:
        """What was learned: accuracy above chance, or the share of the guess's loss that is gone; 0 to 1."""
        if self.loss == "classes":
            return (accuracy - self.guess) / (1 - self.guess)
        return 1 - loss / self.guess


def _generator(*key: int) -> torch.Generator:
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 17) % 2**62
    return torch.Generator().manual_seed(seed)


def images(name: str, pool: int, samples: int, flat: bool, root: Path | None) -> Problem:
    """Images of a data set, averaged over pool x pool pixels; flat for networks of vectors."""
    data = load_data(name, samples=samples, root=root)
    held = load_data(name, samples=360, split="test", root=root)

    def shaped(pixels: Tensor) -> Tensor:
        small = functional.avg_pool2d(pixels, pool) if pool > 1 else pixels
        return small.flatten(1) if flat else small

    x, y, hx, hy = shaped(data.inputs), data.targets, shaped(held.inputs), held.targets
    classes = data.classes

    def make(kind: str, index: int) -> Task:
        draw = _generator(3, index)
        if kind == "random":
            return Task(x, torch.randint(classes, (len(x),), generator=draw))
        if kind == "half":
            return Task(x[: len(x) // 2], y[: len(x) // 2], hx, hy)
        if kind == "inputs":
            order = torch.randperm(x[0].numel(), generator=draw)
            turned = [part.flatten(1)[:, order].reshape(part.shape) for part in (x, hx)]
            return Task(turned[0], y, turned[1], hy)
        if kind == "shift" and index:
            names = torch.randperm(classes, generator=draw)
            return Task(x, names[y], hx, names[hy])
        return Task(x, y, hx, hy)

    return Problem(tuple(x.shape[1:]), classes, "classes", 1 / classes, make)


def numbers(samples: int, features: int = 16) -> Problem:
    """Regression on the outputs of random networks, or on noise that can only be memorised."""
    x = torch.randn(samples, features, generator=_generator(5))
    hx = torch.randn(360, features, generator=_generator(6))

    def make(kind: str, index: int) -> Task:
        draw = _generator(7, index)
        if kind == "random":
            return Task(x, torch.randn(len(x), 1, generator=draw))
        if kind == "inputs":
            order = torch.randperm(features, generator=draw)
            base = make("true", 0)
            return Task(x[:, order], base.targets, hx[:, order], base.held_targets)
        index = index if kind == "shift" else 0
        draw = _generator(8, index)
        first = torch.randn(features, 24, generator=draw) * 2 / math.sqrt(features)
        second = torch.randn(24, 1, generator=draw)
        values, held = torch.tanh(x @ first) @ second, torch.tanh(hx @ first) @ second
        mean, std = values.mean(), values.std()
        rows = len(x) // 2 if kind == "half" else len(x)
        return Task(x[:rows], (values[:rows] - mean) / std, hx, (held - mean) / std)

    return Problem((features,), 1, "numbers", 1.0, make)


def text(samples: int, folder: Path) -> Problem:
    """Characters of Jane Austen's novels; the next one is to be told. Tasks permute the alphabet."""
    raw = (folder / "emma.txt").read_text(encoding="utf-8").lower()
    letters = [_SYMBOLS.index(c) if c in _SYMBOLS else len(_SYMBOLS) - 1 for c in raw[20_000:200_000]]
    stream = torch.tensor(letters)
    starts = torch.randint(len(stream) - CONTEXT - 1, (samples + 200,), generator=_generator(9))
    windows = torch.stack([stream[i : i + CONTEXT + 1] for i in starts.tolist()])
    size = len(_SYMBOLS)
    share = torch.bincount(windows[:, 1:].flatten(), minlength=size).double() / windows[:, 1:].numel()
    guess = float(-(share * share.clamp(min=1e-12).log()).sum())

    def make(kind: str, index: int) -> Task:
        names = torch.randperm(size, generator=_generator(10, index)) if index else torch.arange(size)
        given, wanted = windows[:, :-1], windows[:, 1:]
        if kind in ("shift", "random"):
            given, wanted = names[given], names[wanted]
        elif kind == "inputs":
            given = names[given]
        rows = samples // 2 if kind == "half" else samples
        return Task(given[:rows], wanted[:rows], given[samples:], wanted[samples:])

    return Problem((CONTEXT,), size, "tokens", guess, make)


@functools.cache
def problem(name: str, samples: int, flat: bool, root: Path | None) -> Problem:
    """A problem by its name."""
    if name == "numbers":
        return numbers(samples)
    if name == "text":
        assert root is not None
        return text(samples, root / "austen")
    source, pool = {
        "digits": ("digits", 1),
        "mnist": ("mnist", 2),
        "cifar10": ("cifar10", 2),
        "cifar8": ("cifar10", 4),
    }[name]
    folder = root / "mnist" if root is not None and name == "mnist" else root
    return images(source, pool, samples, flat, folder)


def evaluate(model: nn.Module, of: Problem, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Loss and accuracy (NaN for numbers) in evaluation mode."""
    training = model.training
    model.eval()
    with torch.no_grad():
        found = model(inputs)
        loss = float(of.objective(found, targets))
        hit = math.nan if of.loss == "numbers" else float((found.argmax(-1) == targets).double().mean())
    model.train(training)
    return loss, hit
