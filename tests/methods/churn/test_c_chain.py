"""C-CHAIN: the churn of the last update on other data, and its automatic coefficient."""

from __future__ import annotations

import copy

import pytest
import torch
from contract_runs import batch, network, parts, started, step, train, values
from torch import Tensor, nn

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import Training, training


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(inputs)


@pytest.mark.parametrize("net", ["mlp", "resnet18"])
def test_churn_is_the_mean_square_by_which_the_last_update_moved_the_outputs_elsewhere(net: str) -> None:
    run = started("c-chain", net, decay=0.0)
    method, model = run.method, run.model
    generator = torch.Generator().manual_seed(0)
    batches = [batch(net, generator) for _ in range(6)]
    networks, losses, penalties, buffers, churns = [], [], [], [], {}
    penalty = method.penalty
    object.__setattr__(method, "penalty", lambda *args: penalties.append(penalty(*args)) or penalties[-1])
    for number, data in enumerate(batches):
        networks.append(copy.deepcopy(model))
        losses.append(step(run, data))
        buffers.append(copy.deepcopy(dict(model.named_buffers())))
        if number < 2:
            assert "churn" not in method.state
            continue
        # theta_t against theta_{t-1} on the batch of step t - 2, both with the statistics of step t - 1.
        for each in networks[number - 1 :]:
            each.load_state_dict(buffers[number - 1], strict=False)
        reference = batches[number - 2][0]
        moved = outputs(networks[number], reference) - outputs(networks[number - 1], reference)
        torch.testing.assert_close(method.state["churn"], moved.square().mean())
        if number > 2:  # decay 0 means that the step before alone counts
            expected = 0.01 * losses[number - 1] / (churns[number - 1] + 1e-8) * method.state["churn"]
            torch.testing.assert_close(penalties[number].detach(), expected)
        churns[number] = method.state["churn"]
    assert penalties[:3] == [None, None, None]


def test_the_penalty_is_the_asked_share_of_the_loss_when_both_are_steady() -> None:
    run = started("c-chain", ratio=0.05, decay=0.9)
    method = run.method
    data = batch("mlp", torch.Generator().manual_seed(0))
    shares = []
    for number in range(1, 61):
        means = method.state.get("means")
        loss = step(run, data)
        if number > 10:
            coefficient = 0.05 * means["loss"] / means["churn"]
            shares.append((coefficient * method.state["churn"] / loss).item())
    # Both fall while the network learns this one batch, the churn faster than the average that follows it.
    assert 0.01 < sum(shares) / len(shares) < 0.1


@pytest.mark.parametrize("net", ["mlp", "resnet18"])
def test_a_network_that_does_not_move_does_not_churn(net: str) -> None:
    """Running statistics of normalisations change, but they are no churn."""
    method, model = methods.get("c-chain"), network(net)
    train(Training(method, model, torch.optim.SGD(model.parameters(), lr=0.0)), 5, net=net)
    assert method.state["churn"] == 0


def test_the_reference_leaves_no_trace_in_normalisations_or_modes() -> None:
    """With a ratio so small that nothing else changes, the buffers are those that Adam alone leaves."""
    found = []
    for name, settings in (("adam", {}), ("c-chain", {"ratio": 1e-30})):
        run = started(name, "resnet18", **settings)
        model = run.model
        model.blocks[0].eval()
        train(run, 6, net="resnet18")
        assert not model.blocks[0].training
        assert model.training
        found.append(values(model))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_second_pass_of_sam_is_no_churn() -> None:
    """Its weights are a radius away uphill, which says nothing about the last update."""
    run = started("sam+c-chain", rho=1.0)
    method, model = run.method, run.model
    chain = parts(method)[1]
    generator = torch.Generator().manual_seed(0)
    batches = [batch("mlp", generator) for _ in range(4)]
    networks = []
    for data in batches:
        networks.append(copy.deepcopy(model))
        step(run, data)
    moved = outputs(networks[3], batches[1][0]) - outputs(networks[2], batches[1][0])
    torch.testing.assert_close(chain.state["churn"], moved.square().mean())


def test_less_churn_is_what_it_buys() -> None:
    """The mean churn over a run, with the penalty and without it, from the same start on the same data."""
    churned = []
    for ratio in (1e-12, 2.0):
        run = started("c-chain", ratio=ratio)
        method = run.method
        generator, seen = torch.Generator().manual_seed(0), []
        for _ in range(100):
            step(run, batch("mlp", generator))
            seen.append(method.state.get("churn", torch.zeros(())).item())
        churned.append(sum(seen[20:]) / len(seen[20:]))
    assert churned[1] < 0.9 * churned[0]


class Parts(nn.Module):
    """Outputs in a dict and a tuple, one of which is no number to compare."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> dict[str, object]:
        hidden = self.body(inputs).tanh()
        mean = self.mean(hidden)
        return {"hidden": (hidden, mean), "action": mean.argmax(-1), "name": "agent"}


def test_the_churn_of_several_outputs_is_the_mean_of_theirs() -> None:
    torch.manual_seed(0)
    run = training("c-chain", Parts(), lr=1e-2)
    inputs, seen = [torch.randn(5, 3) for _ in range(4)], []
    for x in inputs:
        seen.append(copy.deepcopy(run.model))
        run.step(lambda x=x: run.model(x)["hidden"][1].square().mean(), inputs=x)
    new, old = (network(inputs[1])["hidden"] for network in (seen[3], seen[2]))
    expected = sum((a - b).square().mean() for a, b in zip(new, old, strict=True)) / 2
    torch.testing.assert_close(run.method.state["churn"], expected.detach())


def test_outputs_without_a_tensor_are_refused_in_one_line() -> None:
    class Silent(nn.Linear):
        def forward(self, inputs: Tensor) -> str:
            self.loss = super().forward(inputs).sum()
            return "nothing"

    run = training("c-chain", Silent(3, 2), lr=1e-2)

    def loss() -> Tensor:
        run.model(torch.ones(2, 3))
        return run.model.loss

    run.step(loss, inputs=torch.ones(2, 3))
    with pytest.raises(IsoplastError, match="compares outputs, and Silent returns no tensor: let it return"):
        run.step(loss, inputs=torch.ones(2, 3))


def test_a_loop_may_use_the_memory_of_its_batch_again() -> None:
    """What the method keeps of a batch is a copy: a rollout buffer is overwritten between two steps."""
    found = []
    for reused in (True, False):
        run = started("c-chain", ratio=0.5)
        generator, memory = torch.Generator().manual_seed(0), torch.empty(5, 6)
        for _ in range(6):
            inputs, targets = batch("mlp", generator)
            found_in = memory.copy_(inputs) if reused else inputs
            step(run, (found_in, targets))
        found.append(values(run.model))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
