"""C-CHAIN: the churn of the last update on other data, and its automatic coefficient."""

from __future__ import annotations

import copy

import pytest
import torch
from contract_runs import batch, network, parts, started, train, values
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isoplast import methods
from isoplast.methods import train_step


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(inputs)


@pytest.mark.parametrize("net", ["mlp", "resnet18"])
def test_churn_is_the_mean_square_by_which_the_last_update_moved_the_outputs_elsewhere(net: str) -> None:
    method, model, optimizer = started("c-chain", net, decay=0.0)
    generator = torch.Generator().manual_seed(0)
    batches = [batch(net, generator) for _ in range(6)]
    networks, losses = [], []
    for step, data in enumerate(batches):
        networks.append(copy.deepcopy(model))
        losses.append(train_step(method, model, optimizer, cross_entropy, data, step + 1))
        if step < 2:
            assert "churn" not in method.state
            continue
        # theta_t against theta_{t-1} on the batch of step t - 2, both with the statistics of step t.
        for each in networks[step - 1 :]:
            each.load_state_dict(dict(model.named_buffers()), strict=False)
        moved = outputs(networks[step], batches[step - 2][0]) - outputs(
            networks[step - 1], batches[step - 2][0]
        )
        torch.testing.assert_close(method.state["churn"], moved.square().mean())
    # The task's part of the loss, in training mode; decay 0 means that the last step alone counts.
    task = cross_entropy(copy.deepcopy(networks[5]).train()(batches[5][0]), batches[5][1])
    added = losses[5] - task.detach()
    torch.testing.assert_close(added, method.state["added"], rtol=1e-3, atol=1e-6)


def test_the_penalty_is_the_asked_share_of_the_loss_when_both_are_steady() -> None:
    method, model, optimizer = started("c-chain", ratio=0.05, decay=0.9)
    data = batch("mlp", torch.Generator().manual_seed(0))
    shares = []
    for step in range(1, 61):
        loss = train_step(method, model, optimizer, cross_entropy, data, step)
        if step > 10:
            shares.append((method.state["added"] / loss).item())
    # Both fall while the network learns this one batch, the churn faster than the average that follows it.
    assert 0.01 < sum(shares) / len(shares) < 0.1


@pytest.mark.parametrize("net", ["mlp", "resnet18"])
def test_a_network_that_does_not_move_does_not_churn(net: str) -> None:
    """Running statistics of normalisations change, but they are no churn."""
    method, model = methods.get("c-chain"), network(net)
    train(method, model, torch.optim.SGD(model.parameters(), lr=0.0), 5, net=net)
    assert method.state["churn"] == 0


def test_the_reference_leaves_no_trace_in_normalisations_or_modes() -> None:
    """With a ratio so small that nothing else changes, the buffers are those that Adam alone leaves."""
    found = []
    for name, hyper in (("adam", {}), ("c-chain", {"ratio": 1e-30})):
        method, model, optimizer = started(name, "resnet18", **hyper)
        model.blocks[0].eval()
        train(method, model, optimizer, 6, net="resnet18")
        assert not model.blocks[0].training
        assert model.training
        found.append(values(model))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_second_pass_of_sam_is_no_churn() -> None:
    """Its weights are a radius away uphill, which says nothing about the last update."""
    method, model, optimizer = started("sam+c-chain", rho=1.0)
    chain = parts(method)[1]
    generator = torch.Generator().manual_seed(0)
    batches = [batch("mlp", generator) for _ in range(4)]
    networks = []
    for step, data in enumerate(batches):
        networks.append(copy.deepcopy(model))
        train_step(method, model, optimizer, cross_entropy, data, step + 1)
    moved = outputs(networks[3], batches[1][0]) - outputs(networks[2], batches[1][0])
    torch.testing.assert_close(chain.state["churn"], moved.square().mean())


def test_less_churn_is_what_it_buys() -> None:
    """The mean churn over a run, with the penalty and without it, from the same start on the same data."""
    churned = []
    for ratio in (1e-12, 2.0):
        method, model, optimizer = started("c-chain", ratio=ratio)
        generator, seen = torch.Generator().manual_seed(0), []
        for step in range(1, 101):
            train_step(method, model, optimizer, cross_entropy, batch("mlp", generator), step)
            seen.append(method.state.get("churn", torch.zeros(())).item())
        churned.append(sum(seen[20:]) / len(seen[20:]))
    assert churned[1] < 0.9 * churned[0]
