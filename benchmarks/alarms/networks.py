"""The recorded networks: plain torch modules with torch's own initialisation, as most people write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from isoplast.nn import build

_UNITS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "leaky": nn.LeakyReLU,
}


def mlp(
    inputs: int,
    outputs: int,
    width: int,
    depth: int,
    units: str = "relu",
    norm: bool = False,
    drop: float = 0.0,
) -> nn.Module:
    """A chain of linear layers."""
    layers: list[nn.Module] = []
    for size in [inputs, *[width] * (depth - 1)]:
        layers.append(nn.Linear(size, width))
        layers += [nn.LayerNorm(width)] if norm else []
        layers.append(_UNITS[units]())
        layers += [nn.Dropout(drop)] if drop else []
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def sparse(inputs: int, outputs: int, width: int, drop: float = 0.0) -> nn.Module:
    """A wide layer whose units fire on about one input in a hundred: biases start far below zero."""
    network = mlp(inputs, outputs, width, 2, drop=drop)
    first = next(layer for layer in network if isinstance(layer, nn.Linear))
    with torch.no_grad():
        first.weight.mul_(3)
        first.bias.sub_(3.5)
    return network


class CNN(nn.Module):
    """Three convolutions, a hidden layer and a head."""

    def __init__(self, channels: int, outputs: int, width: int, norm: bool, drop: float = 0.0) -> None:
        super().__init__()
        sizes = [(channels, width, 1), (width, width, 2), (width, 2 * width, 2)]
        self.features = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(given, made, 3, stride, 1),
                    nn.BatchNorm2d(made) if norm else nn.Identity(),
                    nn.ReLU(),
                )
                for given, made, stride in sizes
            )
        )
        self.hidden = nn.LazyLinear(64)
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(64, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images."""
        return self.head(self.drop(torch.relu(self.hidden(self.features(images).flatten(1)))))


class Block(nn.Module):
    """A residual block with batch normalisation."""

    def __init__(self, given: int, made: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(given, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made)
        self.conv2, self.bn2 = nn.Conv2d(made, made, 3, 1, 1, bias=False), nn.BatchNorm2d(made)
        self.short = nn.Conv2d(given, made, 1, stride, bias=False)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """Features of half the size where the stride is two."""
        branch = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(images)))))
        return self.relu2(branch + self.short(images))


class ResNet(nn.Module):
    """A stem, three residual blocks and a head on the mean over positions."""

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)
        )
        self.head = nn.Linear(4 * width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images."""
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class Recurrent(nn.Module):
    """A recurrent layer over the rows of an image, or over characters."""

    def __init__(self, cell: str, outputs: int, width: int, features: int = 0, symbols: int = 0) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, width) if symbols else None
        kind = {"gru": nn.GRU, "rnn": nn.RNN}[cell]
        self.cell = kind(width if symbols else features, width, batch_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, given: Tensor) -> Tensor:
        """Logits: at each character, or after the last row."""
        if self.symbols is not None:
            return self.head(self.cell(self.symbols(given))[0])
        return self.head(self.cell(given.flatten(1, -2))[0][:, -1])


class Expert(nn.Module):
    """Two layers."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width)

    def forward(self, given: Tensor) -> Tensor:
        """Features of the same size."""
        return self.down(self.act(self.up(given)))


class MoE(nn.Module):
    """A projection, two layers of softly gated experts on a residual stream, and a head."""

    def __init__(self, inputs: int, outputs: int, width: int, experts: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.gates = nn.ModuleList(nn.Linear(width, experts) for _ in range(2))
        self.experts = nn.ModuleList(
            nn.ModuleList(Expert(width, width) for _ in range(experts)) for _ in range(2)
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, given: Tensor) -> Tensor:
        """Logits."""
        hidden = torch.relu(self.embed(given))
        for gate, experts in zip(self.gates, self.experts, strict=True):
            weights = gate(hidden).softmax(-1)
            mixed = torch.stack([expert(hidden) for expert in experts], -1)  # type: ignore[operator]
            hidden = hidden + (mixed * weights[:, None]).sum(-1)
        return self.head(hidden)


def network(name: str, shape: tuple[int, ...], outputs: int, drop: float) -> nn.Module:
    """A freshly drawn network; from torch's global generator."""
    kind, _, size = name.partition(":")
    features = 1
    for side in shape:
        features *= side
    if kind in ("mlp", "tanh", "gelu", "leaky", "norm"):
        width, depth = map(int, size.split("x"))
        units = kind if kind in _UNITS else "relu"
        return mlp(features, outputs, width, depth, units, kind == "norm", drop)
    if kind == "sparse":
        return sparse(features, outputs, int(size), drop)
    if kind in ("cnn", "bncnn"):
        made: nn.Module = CNN(shape[0], outputs, int(size), kind == "bncnn", drop)
        made.eval()(torch.zeros(1, *shape))  # the lazy layer takes its size
        return made.train()
    if kind == "resnet":
        return ResNet(shape[0], outputs, int(size))
    if kind in ("gru", "rnn"):
        words = len(shape) == 1
        return Recurrent(kind, outputs, int(size), 0 if words else shape[-1], outputs if words else 0)
    if kind == "moe":
        return MoE(features, outputs, int(size))
    if kind == "vit":
        patch = 2 if shape[-1] == 8 else 4
        return build(
            "vit", input_shape=shape, classes=outputs, width=int(size), depth=2, heads=2, patch=patch,
            mlp_ratio=2, init="torch", activation="gelu",
        )  # fmt: skip
    return build(
        "gpt", input_shape=shape, classes=outputs, width=int(size), depth=2, heads=2, mlp_ratio=2,
        init="torch", activation="gelu",
    )  # fmt: skip
