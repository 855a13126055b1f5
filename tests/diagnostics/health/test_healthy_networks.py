"""Networks that learn well get no critical finding, whatever they are; one that collapses gets it in time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from isoplast import AdamO, Monitor, diagnose
from isoplast.nn import build

pytest.importorskip("sklearn")
from sklearn.datasets import load_digits

IMAGE = {"input_shape": (1, 8, 8), "classes": 10}
Make = Callable[[nn.Module], Optimizer]


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    x = torch.tensor(found.data, dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(found.target)


def mlp(units: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), units(), nn.Linear(128, 128), units(), nn.Linear(128, 10))


def sparse() -> nn.Module:
    """Units that fire on few inputs, though none is dead over all of them."""
    model = mlp()
    with torch.no_grad():
        model[0].weight.mul_(3)
        model[0].bias.sub_(4.0)
    return model


def adam(lr: float = 1e-3) -> Make:
    return lambda model: Adam(model.parameters(), lr=lr)


def sgd(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def adamo(model: nn.Module) -> Optimizer:
    return AdamO(model.parameters(), lr=1e-3, isometry=1e-2)


def cnn(normalization: str | None) -> nn.Module:
    return build("cnn", **IMAGE, channels=8, width=64, normalization=normalization, init="torch")


def vit() -> nn.Module:
    return build("vit", **IMAGE, width=32, depth=2, heads=2, patch=2, init="torch")


KINDS: dict[str, tuple[Callable[[], nn.Module], Make, int]] = {
    "five epochs of Adam": (mlp, adam(), 5),
    "MLP": (mlp, adam(), 30),
    "fresh": (mlp, adam(), 0),
    "SGD": (mlp, sgd, 20),
    "AdamW": (mlp, lambda model: AdamW(model.parameters(), lr=1e-3, weight_decay=0.1), 20),
    "AdamO": (mlp, adamo, 20),
    "tanh": (lambda: mlp(nn.Tanh), adam(), 20),
    "sparse units": (sparse, adam(), 20),
    "linear softmax": (lambda: nn.Linear(64, 10), adam(1e-2), 20),
    "CNN": (lambda: cnn(None), adam(), 8),
    "CNN with BatchNorm": (lambda: cnn("batchnorm"), adam(), 8),
    "transformer": (vit, adam(), 20),
    "fresh transformer": (vit, adam(), 0),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_network_that_learns_well_gets_no_critical_finding(name: str) -> None:
    torch.manual_seed(0)
    make, optimizer_of, epochs = KINDS[name]
    model, (x, y) = make(), digits()
    x = x.view(-1, 1, 8, 8) if "CNN" in name or "transformer" in name else x
    optimizer = optimizer_of(model)
    for _ in range(epochs):
        for rows in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        model.eval()
        accuracy = (model(x[1400:]).argmax(1) == y[1400:]).double().mean()
    assert epochs == 0 or accuracy > 0.85
    found = diagnose(model, x[:300], y[:300], optimizer=optimizer, probe=False)
    assert [str(one) for one in found.findings if one.severity != "note"] == []


def test_the_demo_hears_of_its_collapse_before_a_fifth_of_its_accuracy_is_gone() -> None:
    """Random labels, Adam at 3e-3: 0.94 .83 .90 .76 .43; the critical finding comes in the third task."""
    torch.manual_seed(0)
    x = digits()[0][:1280]
    model = build("mlp", input_shape=(64,), classes=10, width=128, depth=3)
    optimizer = Adam(model.parameters(), lr=3e-3)
    monitor = Monitor(model, optimizer, inputs=x[:256], budget=0.2, warn=False)  # seconds differ: look often
    scores: list[float] = []
    heard: list[float] = []
    for _ in range(3):
        labels = torch.randint(10, (1280,))
        for _ in range(25):
            for rows in torch.randperm(1280).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), labels[rows]).backward()
                optimizer.step()
                monitor.step()
        with torch.no_grad():
            scores.append(float((model(x).argmax(1) == labels).double().mean()))
        heard.append(sum(one.severity == "critical" for _, one in monitor.findings))
    assert scores[-1] > 0.8 * scores[0]
    assert heard[-1] > 0
