"""Networks whose kernel is compared with autograd: each a model and the shape of its inputs."""

import torch
import torch.nn.functional as F
from torch import nn

from isoplast.nn import build


class TiedHead(nn.Module):
    """An embedding whose table is also the output matrix, used as a function."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.mix = nn.Linear(6, 6)

    def forward(self, tokens):
        return F.linear(torch.tanh(self.mix(self.table(tokens))).mean(1), self.table.weight)


class TiedLinear(nn.Module):
    """One layer called three times, and a second layer that owns the same matrix."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 3)
        self.two.weight = self.one.weight

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.one(x))
        return self.head(self.two(x) + x)


class TokensFirst(nn.Module):
    """Positions, not samples, in front of a layer: as many of them as samples."""

    def __init__(self, flat):
        super().__init__()
        self.flat = flat
        self.linear, self.head = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x):
        tokens = x.transpose(0, 1)
        if self.flat:
            tokens = tokens.reshape(-1, 5)
        hidden = torch.tanh(self.linear(tokens)).view(x.shape[1], x.shape[0], 4)
        return self.head(hidden.transpose(0, 1).mean(1))


class InPlace(nn.Module):
    """Outputs and residuals overwritten in place."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        hidden = self.relu(self.first(x))
        branch = self.second(hidden)
        branch += hidden
        return self.head(torch.relu_(branch))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(x).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class ByValue(nn.Module):
    """A free parameter, and code that depends on the numbers: vmap cannot trace it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x * self.scale if float(x.sum()) > -1e9 else x)


class Experts(nn.Module):
    """Every token goes to one expert, which is given the rows that come to it, of whichever samples."""

    def __init__(self, experts, flat):
        super().__init__()
        self.flat = flat
        self.router = nn.Linear(4, experts)
        self.experts = nn.ModuleList(nn.Linear(4, 5) for _ in range(experts))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        tokens = x.reshape(-1, 4) if self.flat else x[:, 0]
        weights, chosen = self.router(tokens).softmax(-1).max(-1)
        hidden = tokens.new_zeros(len(tokens), 5)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero().flatten()
            hidden = hidden.index_add(0, rows, torch.tanh(expert(tokens[rows])) * weights[rows, None])
        return self.head(hidden.view(len(x), -1, 5).mean(1))


class Swapped(nn.Module):
    """A layer that sees the rows of three samples or more in another order: of two it looks right."""

    def __init__(self):
        super().__init__()
        self.one, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        order = torch.arange(len(x))
        if len(x) > 2:
            order = order.flip(0)
        return self.head(torch.tanh(self.one(x[order]))[order])


class BurnIn(nn.Module):
    """A cell whose first steps run without gradients, its last with them: by the same weights."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x):
        state = x.new_zeros(len(x), 4)
        with torch.no_grad():
            for step in range(2):
                state = torch.tanh(self.cell(torch.cat([x[:, step], state], 1)))
        return self.head(torch.tanh(self.cell(torch.cat([x[:, 2], state], 1))))


class SparseTables(nn.Module):
    """Embeddings with sparse gradients, by module and by function, with and without a formula."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 4, sparse=True)
        self.other = nn.Parameter(torch.randn(9, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, tokens):
        hidden = self.table(tokens).mean(1) + F.embedding(tokens, self.other, sparse=True).mean(1)
        return self.head(torch.tanh(hidden))


def mlp():
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 9), nn.GELU(), nn.Linear(9, 4)), (6,)


def maxmin():
    return build("mlp", input_shape=(6,), classes=3, width=8, activation="maxmin"), (6,)


def convolutions():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding="valid", dilation=(1, 2)),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding="same", groups=3, bias=False),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(6 * 3 * 5, 3),
    ), (2, 7, 7)


def batch_norm():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    model(torch.randn(64, 5))
    return model, (5,)


def lines():
    return nn.Sequential(
        nn.Conv1d(3, 4, 4, stride=2, padding=2),
        nn.Tanh(),
        nn.Conv1d(4, 2, 2),
        nn.BatchNorm1d(2),
        nn.Flatten(),
    ), (3, 8)


def volumes():
    return nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 2)), (1, 3, 3, 3)


def normalised():
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.RMSNorm(8), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model, (6,)


def sequences():
    # 3 positions of 6 features: the Gram matrices of positions; 40 positions: the gradients.
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.LayerNorm((3, 7)), nn.Linear(7, 2)), (3, 6)


def parametrised():
    model = nn.Sequential(
        nn.Linear(5, 5), nn.Tanh(), nn.utils.spectral_norm(nn.Linear(5, 4)), nn.Linear(4, 2)
    )
    nn.utils.parametrizations.weight_norm(model[0])
    return model, (5,)


def shared():
    return TiedLinear(), (6,)


def residual():
    return build("resnet18", input_shape=(3, 8, 8), classes=3, width=2), (3, 8, 8)


def vit():
    return build("vit", input_shape=(3, 8, 8), classes=3, width=8, depth=2, heads=2), (3, 8, 8)


def isometric():
    return build("mlp", input_shape=(6,), classes=3, width=6, depth=2, linear="isometric"), (6,)


NETWORKS = {
    f.__name__: f
    for f in (
        mlp, maxmin, convolutions, batch_norm, lines, volumes, normalised, sequences, parametrised,
        shared, residual, vit, isometric,
    )
} | {
    "tokens first": lambda: (TokensFirst(flat=False), (4, 5)),
    "tokens first, flat": lambda: (TokensFirst(flat=True), (4, 5)),
    "in place": lambda: (InPlace(), (6,)),
    "attention": lambda: (Attention(), (5, 8)),
    "encoder": lambda: (Encoder(), (5, 8)),
    "recurrent": lambda: (Recurrent(), (4, 4)),
    "experts": lambda: (Experts(3, flat=False), (1, 4)),
    "experts of tokens": lambda: (Experts(4, flat=True), (6, 4)),
    "an expert without samples": lambda: (Experts(40, flat=False), (1, 4)),
    "swapped": lambda: (Swapped(), (4,)),
    "burn-in": lambda: (BurnIn(), (3, 4)),
    "by value": lambda: (ByValue(), (4,)),
    "one output": lambda: (nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), (4,)),
    "many positions": lambda: (nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.Linear(160, 2)), (40, 3)),
}  # fmt: skip
