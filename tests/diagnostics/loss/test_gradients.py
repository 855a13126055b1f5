"""Gradients of a batch and what a step changes, against autograd and closed forms."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import Churn, Updates, gradients, update_ratio
from isoplast.nn import build


def data(n: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)
    ).double()


def one_by_one(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each sample's loss, one row each."""
    model = copy.deepcopy(model).eval()
    rows = []
    for i in range(len(x)):
        found = torch.autograd.grad(
            cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters())
        )
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def test_everything_follows_from_the_gradients_of_the_samples() -> None:
    model, (x, y) = small().train(), data()
    wanted = one_by_one(model, x, y)
    found = gradients(model, x, y)
    assert found.norm == pytest.approx(float(wanted.mean(0).norm()), rel=1e-12)
    torch.testing.assert_close(found.sample_norms, wanted.norm(dim=1), rtol=1e-12, atol=0)
    unit = wanted / wanted.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.cosines, unit @ unit.T, rtol=0, atol=1e-12)
    pairs = (unit @ unit.T)[~torch.eye(10, dtype=torch.bool)]
    assert found.interference == pytest.approx(float(pairs.mean()), abs=1e-12)
    assert found.conflicts == float((pairs < 0).double().mean())
    shares = torch.linalg.svdvals(wanted) ** 2 / wanted.square().sum()
    assert found.effective_rank == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-9)
    spread = wanted.var(dim=0).sum()
    assert found.noise_scale == pytest.approx(
        float(spread / (wanted.mean(0).square().sum() - spread / 10)), rel=1e-9
    )


def test_layers_are_named_and_have_their_own_norms() -> None:
    model, (x, y) = small(), data()
    found = gradients(model, x, y)
    assert list(found) == ["0", "2", "4"]
    assert found.norm == pytest.approx(math.sqrt(sum(layer.norm**2 for layer in found.values())), rel=1e-12)
    expected = math.sqrt(sum(float(p.detach().square().sum()) for p in model[4].parameters()))
    assert found["4"].weight_norm == pytest.approx(expected, rel=1e-12)
    with pytest.raises(KeyError, match="unknown layer"):
        found["head"]


@pytest.mark.parametrize("block", [1, 3, 4])
def test_pairs_of_blocks_give_the_same_matrix(block: int) -> None:
    model, (x, y) = small(), data()
    size = sum(p.numel() for p in model.parameters())
    whole, pieces = gradients(model, x, y), gradients(model, x, y, memory_limit=block * 4 * 8 * size)
    torch.testing.assert_close(whole.cosines, pieces.cosines, rtol=0, atol=1e-12)
    with pytest.raises(IsoplastError, match=r"memory_limit=99: the gradients of two samples take \d+ bytes"):
        gradients(model, x, y, memory_limit=99)


def test_known_interference() -> None:
    # One linear output: the gradient of a sample is its input times its residual.
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.zero_()
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[1.0], [3.0], [1.0], [-1.0]], dtype=torch.float64)
    found = gradients(model, x, y, mse_loss)
    assert found.sample_norms.tolist() == [2.0, 6.0, 4.0, 2.0]
    assert found.cosines[0].tolist() == [1.0, 1.0, 0.0, -1.0]
    # Pairs: (0,1) +1, (0,3) -1, (1,3) -1, the others 0.
    assert found.interference == pytest.approx(-1 / 6)
    assert found.conflicts == pytest.approx(2 / 6)


def test_the_noise_scale_is_that_of_the_distribution() -> None:
    # Loss w.x per sample: gradients are the inputs, N(mean, I) in 20 dimensions: tr S / |G|^2 = 20 / 4.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 20, generator=generator, dtype=torch.float64)
    x[:, 0] += 2
    model = nn.Linear(20, 1, bias=False).double()
    found = gradients(model, x, torch.zeros(400), lambda f, _: f.mean())
    # |mean|^2 has a relative standard error of 2 / (2 * 20) = 5 %; three of them.
    assert found.noise_scale == pytest.approx(5.0, rel=0.15)
    zero_mean = gradients(model, x - x.mean(0), torch.zeros(400), lambda f, _: f.mean())
    assert zero_mean.noise_scale == math.inf


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"width": 8, "depth": 2, "activation": "maxmin", "linear": "isometric"}),
        ("cnn", {}),
        ("resnet18", {"width": 4}),
        ("vit", {"width": 8, "depth": 1, "heads": 2}),
    ],
)
def test_networks_of_every_kind_are_left_as_they_were(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = build(name, input_shape=(3, 8, 8), classes=4, **options).train()
    x, y = torch.randn(6, 3, 8, 8), torch.randint(4, (6,))
    cross_entropy(model(x), y).backward()
    kept = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    before = [t.clone() for t in model.state_dict().values() if isinstance(t, Tensor)]
    state = torch.get_rng_state()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = gradients(model, x, y)
    # The mean loss's gradient is the mean of the samples': two routes to one number.
    gram = found.cosines * found.sample_norms * found.sample_norms[:, None]
    assert found.norm == pytest.approx(math.sqrt(float(gram.mean())), rel=1e-4)
    assert found.finite
    churn, updates = Churn(model, x), Updates(model)
    assert churn.step().mean_square == 0.0
    assert updates.step().ratio == 0.0
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, before, [t for t in model.state_dict().values() if isinstance(t, Tensor)]))
    assert all(map(torch.equal, kept, [p.grad for p in model.parameters() if p.grad is not None]))


class Branching(nn.Module):
    """Decides by the values, which vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if float(x.sum()) > 1e9 else 2 * self.layer(x)


def test_networks_that_vmap_cannot_follow() -> None:
    (x, y), model = data(), Branching()
    wanted = one_by_one(model, x, y)
    torch.testing.assert_close(gradients(model, x, y).sample_norms, wanted.norm(dim=1), rtol=1e-12, atol=0)


def test_one_sample_and_non_contiguous_inputs() -> None:
    model, (x, y) = small(), data()
    found = gradients(model, x[:1], y[:1])
    assert math.isnan(found.interference)
    assert math.isnan(found.noise_scale)
    assert found.norm == pytest.approx(float(found.sample_norms[0]))
    transposed = gradients(model, x.T.contiguous().T, y)
    assert transposed.norm == pytest.approx(gradients(model, x, y).norm, rel=1e-12)


def test_what_is_not_finite_is_named() -> None:
    model, (x, y) = small(), data()
    with torch.no_grad():
        model[4].weight[0, 0] = math.nan
    found = gradients(model, x, y)
    assert not found.finite
    assert not found["4"].finite
    for value in (found.norm, found.interference, found.conflicts, found.effective_rank, found.noise_scale):
        assert math.isnan(value)
    assert "NOT FINITE" in str(found)


def test_gradients_of_nothing() -> None:
    model, (x, y) = small(), data()
    found = gradients(model, x, y, lambda f, _: 0 * f.mean())
    assert (found.norm, found.interference, found.conflicts, found.effective_rank) == (0, 0, 0, 0)
    with pytest.raises(IsoplastError, match="no trainable parameter"):
        gradients(model.requires_grad_(False), x, y)


def test_update_ratios_of_a_step_of_gradient_descent() -> None:
    model, (x, y) = small(), data()
    model[2].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    updates = Updates(model)
    cross_entropy(model(x), y).backward()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    found = updates.step()
    assert list(found) == ["0", "4"]  # the trainable layers
    for name in found:
        parts = list(model[int(name)].parameters())
        distance = 0.1 * math.sqrt(sum(float(p.grad.square().sum()) for p in parts if p.grad is not None))
        size = math.sqrt(sum(float(w.square().sum()) for n, w in weights.items() if n.startswith(name)))
        assert found[name].distance == pytest.approx(distance, rel=1e-9)
        assert found[name].ratio == pytest.approx(distance / size, rel=1e-9)
    assert found.ratio == pytest.approx(update_ratio(model, weights).ratio, rel=1e-12)
    assert updates.step().ratio == 0.0  # nothing moved since


def test_update_ratio_between_states() -> None:
    model = small()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved[0].weight.mul_(1.5)
        moved[0].bias.mul_(1.5)
        model[4].weight.zero_()
        model[4].bias.zero_()
    found = update_ratio(moved, model)
    assert found["0"].ratio == pytest.approx(0.5)
    assert found["2"].ratio == 0.0
    assert found["4"].ratio == math.inf
    assert update_ratio(moved, model.state_dict()).as_dict() == found.as_dict()
    with pytest.raises(IsoplastError, match=r"no 0\.weight of shape \(6, 5\)"):
        update_ratio(moved, {})
    with torch.no_grad():
        moved[0].weight[0, 0] = math.nan
    broken = update_ratio(moved, model)
    assert math.isnan(broken["0"].ratio)
    assert math.isnan(broken.ratio)
    assert not broken.finite
    assert "NOT FINITE" in str(broken)


def test_churn_of_a_known_change() -> None:
    model, x = nn.Linear(5, 3).double(), data()[0]
    churn = Churn(model, x, batch_size=4)
    before = model(x).detach()
    with torch.no_grad():
        model.weight.add_(torch.randn(3, 5, dtype=torch.float64))
    after = model(x).detach()
    found = churn.step()
    assert found.mean_square == pytest.approx(float((after - before).square().mean()), rel=1e-12)
    p, q = before.softmax(1), after.softmax(1)
    assert found.kl == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-9)
    assert found.flips == float((p.argmax(1) != q.argmax(1)).double().mean())
    assert churn.step().as_dict() == {"mean_square": 0.0, "kl": 0.0, "flips": 0.0}


def test_churn_of_single_outputs_and_of_what_is_not_finite() -> None:
    model, x = nn.Linear(5, 1).double(), data()[0]
    churn = Churn(model, x)
    assert math.isnan(churn.step().kl)
    model = nn.Linear(5, 3).double()
    churn = Churn(model, x)
    with torch.no_grad():
        model.weight[0, 0] = math.nan
    assert all(math.isnan(value) for value in churn.step().as_dict().values())
    with pytest.raises(IsoplastError, match="do not fit the model"):
        Churn(model, x[:, :4])
    with pytest.raises(IsoplastError, match="batch_size is 0"):
        Churn(model, x, batch_size=0)


def test_training_with_the_recorders_goes_on_to_the_same_bits() -> None:
    def train(recording: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model, (x, y) = small().train(), data()
        optimizer = torch.optim.Adam(model.parameters())
        churn, updates = Churn(model, x), Updates(model)
        for _ in range(4):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            if recording:
                gradients(model, x, y)
            optimizer.step()
            if recording:
                churn.step()
                updates.step()
        return list(model.state_dict().values())

    assert all(map(torch.equal, train(True), train(False)))


def test_they_print_and_flatten() -> None:
    model, (x, y) = small(), data()
    for found in (gradients(model, x, y), Updates(model).step(), Churn(model, x).step()):
        assert all(isinstance(value, float) for value in found.as_dict().values())
        assert str(found)
    assert set(gradients(model, x, y).as_dict()) >= {"norm", "interference", "noise_scale", "norm/0"}
