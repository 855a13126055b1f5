"""Losses and scores: against torch, whatever the batches, and chance as a guess that knows no inputs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from isoplast.streams import Classification, Language, Objective, Regression


def cases() -> list[tuple[Objective, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (Classification(5), torch.randn(33, 5, generator=generator), torch.arange(33) % 5),
        (Regression(3), torch.randn(33, 3, generator=generator), torch.randn(33, 3, generator=generator)),
        (
            Language(7),
            torch.randn(33, 4, 7, generator=generator),
            torch.randint(7, (33, 4), generator=generator),
        ),
    ]


@pytest.mark.parametrize(("objective", "outputs", "targets"), cases(), ids=lambda value: type(value).__name__)
def test_totals_of_batches_make_the_loss_of_the_whole(
    objective: Objective, outputs: Tensor, targets: Tensor
) -> None:
    parts = [objective.totals(outputs[rows], targets[rows]) for rows in torch.arange(33).split(10)]
    mean = sum(float(loss) for loss, _ in parts) / objective.count(targets)
    assert mean == pytest.approx(float(objective.loss(outputs, targets)), rel=1e-5)  # float32 sums
    assert objective.outputs == outputs.shape[-1]
    assert objective.check(targets) == ""


def test_accuracy_counts_what_is_right() -> None:
    outputs = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    _, right = Classification(2).totals(outputs, torch.tensor([0, 1, 1]))
    assert float(right) == 2


def test_bits_are_nats_over_the_logarithm_of_two() -> None:
    nats, bits = Language(256).totals(torch.zeros(2, 3, 256), torch.zeros(2, 3, dtype=torch.long))
    assert float(bits) / 6 == pytest.approx(8)  # log2 256
    assert float(nats) / 6 == pytest.approx(math.log(256))


@pytest.mark.parametrize(("objective", "outputs", "targets"), cases(), ids=lambda value: type(value).__name__)
def test_where_all_outputs_are_as_frequent_no_guess_without_inputs_beats_chance(
    objective: Objective, outputs: Tensor, targets: Tensor
) -> None:
    """Of a constant output that is trained; classes and tokens are about equally many here."""
    constant = nn.Parameter(torch.zeros(outputs.shape[-1]))
    optimizer = torch.optim.Adam([constant], lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        objective.loss(constant.expand(outputs.shape), targets).backward()
        optimizer.step()
    _, score = objective.totals(constant.detach().expand(outputs.shape), targets)
    reached = float(score) / objective.count(targets)
    # Of 132 tokens each has 19 or so, not the same number: knowing that saves a tenth of a bit.
    assert reached == pytest.approx(objective.chance(targets), abs=0.1)


def test_chance_knows_which_outputs_are_in_use_and_not_how_often() -> None:
    targets = torch.tensor([1] * 9 + [3])
    few = Classification(5, (1, 3, 4))
    guesses = [float(few.totals(torch.eye(5)[[own] * 10], targets)[1]) / 10 for own in (1, 3, 4)]
    assert few.chance(targets) == pytest.approx(sum(guesses) / 3) == pytest.approx(1 / 3)
    _, bits = Language(7).totals(torch.zeros(10, 1, 7), targets[:, None])
    assert Language(7).chance(targets[:, None]) == pytest.approx(float(bits) / 10)
    numbers = targets[:, None].double()
    _, errors = Regression(1).totals(numbers.mean().expand(10, 1), numbers)
    assert Regression(1).chance(numbers) == pytest.approx(float(errors) / 10)
