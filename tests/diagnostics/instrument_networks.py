"""Networks that make it hard to give them back as they were: each with inputs and class numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from isoplast.nn import build


class InListsAndDicts(nn.Module):
    """One block under five names, in containers of torch's and of Python's."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Linear(6, 6)
        self.first, self.block = nn.Linear(4, 6), block
        self.listed, self.named = nn.ModuleList([block, nn.Linear(6, 6)]), nn.ModuleDict({"a": block})
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(6)), block.bias])
        self.by_name = nn.ParameterDict({"b": block.weight})
        self.plain = [block, self.first]
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x)) * self.scales[0] + self.scales[1]
        for layer in (self.block, *self.listed, self.named["a"], self.plain[0]):
            x = torch.relu(layer(x))
        return self.head(F.linear(x, self.by_name["b"]))  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Two layers with one matrix, and a matrix used as a function of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 3)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(torch.tanh(self.one(x))) + F.linear(x, self.one.weight))  # type: ignore[no-any-return]


class MadeLate(nn.Module):
    """Makes its head when it first sees inputs, and a cache at every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LazyLinear(6)
        self.head: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.body(x))
        if self.head is None:
            self.head = nn.Linear(hidden.shape[-1], 3)
        if not hasattr(self, "cache"):
            self.add_module("spare", nn.Identity())
            self.cache = [hidden]
        return self.head(hidden)  # type: ignore[no-any-return]


class Remembering(nn.Module):
    """Writes down what it saw: in attributes, lists, buffers and tensors, by a new object and in place."""

    calls: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))
        self.count, self.kept, self.seen = 0, torch.zeros(2), [1.0]
        self.by_name: dict[str, Any] = {"x": None}
        self.features: Tensor | None = None
        self.noise = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x.detach().mean()
        self.count += 1
        self.kept += 1
        self.seen.append(2.0)
        self.by_name["x"] = x
        torch.rand(1, generator=self.noise)
        np.random.rand()  # noqa: NPY002
        self.features = torch.relu(self.body(x))
        return self.head(self.features)  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """Tables with sparse gradients, one of which is renormalised as it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 6, sparse=True)
        self.bag = nn.EmbeddingBag(9, 6, mode="sum", sparse=True)
        self.short = nn.Embedding(9, 6, max_norm=0.5)
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.table(tokens).mean(1) + self.bag(tokens) + self.short(tokens).mean(1)
        return self.head(torch.relu(self.body(hidden)))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(2, 4, batch_first=True), nn.GRU(4, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.lstm(x.view(len(x), 2, 2))[0])[0][:, -1])  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), 2, 2).repeat(1, 1, 2)
        return self.head(self.layer(self.attention(x, x, x, need_weights=False)[0]).mean(1))  # type: ignore[no-any-return]


class Experts(nn.Module):
    """Each sample goes to one expert; which sees the rows that it is given alone."""

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.router = nn.Linear(4, experts)
        self.experts = nn.ModuleList(nn.Linear(4, 6) for _ in range(experts))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).max(-1)
        hidden = x.new_zeros(len(x), 6)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero().flatten()
            hidden = hidden.index_add(0, rows, torch.tanh(expert(x[rows])) * weights[rows, None])
        return self.head(hidden)  # type: ignore[no-any-return]


class Masked(nn.Module):
    """Takes keyword arguments, as language models do, and returns a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        hidden = torch.relu(self.body(self.table(input_ids)))
        mask = torch.ones(input_ids.shape) if attention_mask is None else attention_mask
        return {"logits": self.head((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))}


class Frozen(nn.Module):
    """A head on features that are taken without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.body(x)
        return self.head(features)  # type: ignore[no-any-return]


def shared() -> nn.Module:
    block = nn.Linear(6, 6)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), block, nn.ReLU(), block, nn.Linear(6, 3))


def shared_inside() -> nn.Module:
    """A block of blocks twice, one of them shared inside, too."""
    inner = nn.Linear(6, 6)
    block = nn.Sequential(inner, nn.Tanh(), nn.Sequential(inner, nn.Tanh()))
    return nn.Sequential(nn.Linear(4, 6), block, block, nn.Linear(6, 3))


def made_late() -> nn.Module:
    model = MadeLate()
    model.body(torch.zeros(1, 4))  # its lazy layer is ready, its head is not there
    return model


def parametrised() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(),
                          nn.Linear(6, 3))  # fmt: skip
    parametrizations.weight_norm(model[0])
    parametrizations.orthogonal(model[2])
    parametrizations.spectral_norm(model[4])
    return model


def normed_by_hooks() -> nn.Module:
    first = nn.utils.weight_norm(nn.Linear(4, 6))  # type: ignore[no-untyped-call]
    second = nn.utils.spectral_norm(nn.Linear(6, 6))
    return nn.Sequential(first, nn.Tanh(), second, nn.ReLU(), second, nn.Linear(6, 3))


def noisy() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 3))
    model(torch.randn(8, 4))
    model[1].eval()  # one module keeps a mode of its own
    return model


def compiled() -> nn.Module:
    return torch.compile(shared(), backend="eager")  # type: ignore[return-value]


def compiled_inside() -> nn.Module:
    model = shared()
    model[2] = model[4] = torch.compile(model[2], backend="eager")
    model.compile(backend="eager")
    return model


def isometric() -> nn.Module:
    return build(
        "mlp", input_shape=(4,), classes=3, width=6, depth=2, linear="isometric", activation="maxmin"
    )


def convolutional() -> nn.Module:
    layer = nn.Conv2d(2, 2, 3, padding=1)
    first = (nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 1))
    return nn.Sequential(*first, layer, nn.ReLU(), layer, nn.Flatten(), nn.Linear(8, 3))


NETWORKS = {
    f.__name__: f
    for f in (shared, shared_inside, InListsAndDicts, Tied, made_late, parametrised, normed_by_hooks, noisy,
              compiled, compiled_inside, isometric, convolutional, Recurrent, Attention, Experts, Remembering,
              Tokens, Masked, Frozen)
}  # fmt: skip


def batch(name: str, n: int = 8) -> tuple[Any, Tensor]:
    """Inputs that suit the network of that name, and class numbers."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(n) % 3
    if name in ("Tokens", "Masked"):
        tokens = torch.randint(9, (n, 5), generator=generator)
        return (tokens if name == "Tokens" else {"input_ids": tokens, "attention_mask": torch.ones(n, 5)}), y
    return torch.randn(n, 4, generator=generator), y
