"""The kernel of some outputs is that of a network that has only those."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import ntk
from isoplast.nn import build


class Some(nn.Module):
    def __init__(self, inner: nn.Module, chosen: list[int]) -> None:
        super().__init__()
        self.inner, self.chosen = inner, chosen

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(inputs)[:, self.chosen]


def network() -> nn.Module:
    torch.manual_seed(0)
    return build("mlp", input_shape=(6,), classes=5, width=16, depth=2).double()


@pytest.mark.parametrize("chosen", [[4], [0, 1, 2, 3], [3, 1]])
def test_it_is_the_kernel_of_a_network_with_these_outputs(chosen: list[int]) -> None:
    net, inputs = network(), torch.randn(7, 6, dtype=torch.float64)
    found, expected = ntk(net, inputs).of_outputs(chosen), ntk(Some(net, chosen), inputs)
    torch.testing.assert_close(found.matrix, expected.matrix)
    assert (found.size, found.outputs, found.samples) == (7 * len(chosen), len(chosen), 7)
    assert found.condition_number == pytest.approx(expected.condition_number, rel=1e-6)
    assert found.participation_rank == pytest.approx(expected.participation_rank)


def test_of_a_broken_network_it_is_nothing() -> None:
    net = network()
    next(net.parameters()).data[0, 0] = math.nan
    found = ntk(net, torch.randn(3, 6, dtype=torch.float64)).of_outputs([0])
    assert not found.finite
    assert math.isnan(found.condition_number)


@pytest.mark.parametrize(
    ("settings", "words"), [({"centred": True}, "centred"), ({"method": "lanczos"}, "lanczos")]
)
def test_where_there_is_no_such_kernel_it_says_so(settings: dict[str, object], words: str) -> None:
    found = ntk(network(), torch.randn(3, 6, dtype=torch.float64), **settings)  # type: ignore[arg-type]
    with pytest.raises(IsoplastError, match=words):
        found.of_outputs([0])
