"""Which networks are recorded: families of data and network, recipes, histories."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from isoplast.methods import get


@dataclass(frozen=True)
class Family:
    """A network on a data set.

    Attributes:
        data, network: names.
        samples, epochs, batch: of one task.
        tasks: of a long stream.
        times: tasks of a stream after which the network is measured.
    """

    data: str
    network: str
    samples: int
    epochs: int
    batch: int
    tasks: int
    times: tuple[int, ...]

    @property
    def name(self) -> str:
        """Data and network."""
        return f"{self.data}/{self.network}"

    @property
    def kind(self) -> str:
        """What `isoplast` takes its network for: limits go by that."""
        network = self.network.partition(":")[0]
        if network in ("gru", "rnn"):
            return "recurrent"
        if network in ("norm", "bncnn", "resnet", "vit", "gpt"):
            return "normalised"
        return "smooth" if network in ("tanh", "gelu") else "relu"

    @property
    def light(self) -> bool:
        """Whether a core trains it in seconds."""
        return self.samples > 256

    @property
    def flat(self) -> bool:
        """Whether the network takes vectors."""
        return self.network.partition(":")[0] in ("mlp", "tanh", "gelu", "leaky", "norm", "sparse", "moe")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: of the optimizer, with "+cosine" and "+dropout" where it has them.
        lr: its learning rate.
    """

    name: str
    lr: float

    def optimizer(self, model: nn.Module) -> Optimizer:
        """A fresh optimizer of a model."""
        kind = self.name.partition("+")[0]
        if kind == "adam":
            return Adam(model.parameters(), lr=self.lr)
        if kind == "adaml2":
            return Adam(model.parameters(), lr=self.lr, weight_decay=1e-3)
        if kind == "adamw":
            return AdamW(model.parameters(), lr=self.lr, weight_decay=0.1)
        if kind == "sgd":
            return SGD(model.parameters(), lr=self.lr, momentum=0.9)
        if kind == "adamo":
            return get("adamo", isometry=1e-2).optimizer(model, self.lr)
        return get(kind).optimizer(model, self.lr)

    @property
    def drop(self) -> float:
        """The dropout of its networks."""
        return 0.1 if "+dropout" in self.name else 0.0

    def scale(self, step: int, steps: int) -> float:
        """Factor of the learning rate at a step of a task."""
        return 0.5 + 0.5 * math.cos(math.pi * step / steps) if "+cosine" in self.name else 1.0

    @property
    def probe_lr(self) -> float:
        """What isoplast's probe would take: the rate of an Adam, else 1e-3."""
        return self.lr if self.name.startswith("adam") else 1e-3


@dataclass(frozen=True)
class Subject:
    """One network to be recorded."""

    family: Family
    recipe: Recipe
    history: str

    @property
    def key(self) -> str:
        """What it is called in the records."""
        return f"{self.family.name} {self.recipe.name}@{self.recipe.lr:g} {self.history}"

    @property
    def seed(self) -> int:
        """Its seed, no other network's."""
        return zlib.crc32(self.key.encode())


def _light(data: str, network: str) -> Family:
    return Family(data, network, 512, 20, 64, 17, (1, 3, 6, 11, 16))


def _heavy(data: str, network: str) -> Family:
    samples = 128 if data == "text" else 256
    return Family(data, network, samples, 16, 16 if data == "text" else 32, 7, (2, 6))


FAMILIES = (
    _light("digits", "mlp:32x2"),
    _heavy("mnist", "cnn:8"),
    _light("digits", "mlp:128x3"),
    _heavy("text", "gpt:32"),
    _light("digits", "tanh:64x3"),
    _heavy("digits", "vit:32"),
    _light("numbers", "mlp:64x3"),
    _heavy("cifar8", "resnet:8"),
    _light("digits", "gelu:64x3"),
    _heavy("digits", "gru:48"),
    _light("mnist", "mlp:100x3"),
    _heavy("mnist", "bncnn:8"),
    _light("digits", "sparse:256"),
    _heavy("cifar10", "cnn:8"),
    _heavy("digits", "moe:32"),
    _heavy("text", "gru:48"),
    _light("numbers", "tanh:64x3"),
    _heavy("cifar10", "vit:32"),
    _light("digits", "norm:64x3"),
    _heavy("digits", "rnn:48"),
    _light("cifar10", "mlp:64x3"),
    _heavy("digits", "bncnn:8"),
    _light("mnist", "sparse:256"),
    _heavy("digits", "cnn:8"),
    _light("mnist", "gelu:64x3"),
    _light("cifar10", "tanh:64x3"),
    _light("numbers", "gelu:64x3"),
)

# The first are the most telling: a recording that is cut short has them of every family. The last column says
# which networks: all, or those that a core trains in seconds.
_SLOTS = (
    ("adam", 3e-3, "random", "all"),
    ("adam", 1e-3, "one", "all"),
    ("adam", 1e-2, "shift", "all"),
    ("adamw", 1e-3, "one", "light"),
    ("sgd", 0.1, "random", "light"),
    ("adamo", 3e-3, "random", "all"),
    ("adam", 1e-2, "random", "all"),
    ("sgd", 0.1, "one", "all"),
    ("adam", 1e-3, "finetune", "all"),
    ("adam", 1e-3, "random", "light"),
    ("muon", 1e-3, "one", "all"),
    ("adam", 3e-3, "inputs", "light"),
    ("adam+cosine", 3e-3, "one", "all"),
    ("adam", 3e-2, "shift", "all"),
    ("adam", 1e-3, "warm", "all"),
    ("adaml2", 3e-3, "random", "light"),
    ("adamo", 1e-3, "one", "all"),
    ("adam+dropout", 1e-3, "one", "light"),
    ("muon", 3e-3, "random", "light"),
    ("adam", 1e-4, "one", "light"),
    ("adamw", 3e-3, "one", "all"),
    ("sgd", 0.03, "shift", "all"),
    ("adam", 3e-4, "one", "light"),
    ("adamo", 3e-3, "shift", "light"),
)


def subjects() -> Iterator[Subject]:
    """All networks, interleaved over the families."""
    for name, lr, history, which in _SLOTS:
        for family in FAMILIES:
            if which == "all" or family.light:
                yield Subject(family, Recipe(name, lr), history)
