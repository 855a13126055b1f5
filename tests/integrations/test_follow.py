"""Follow, and what the integrations refuse; in real frameworks they run in tests/stacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from isoplast import AdamO, Monitor
from isoplast._core.errors import IsoplastError
from isoplast.integrations import Follow, adapter_groups


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(32, 6)).square().mean().backward()
        optimizer.step()


def test_a_reset_happens_in_its_step_and_the_hooks_are_taken_off() -> None:
    model = network()
    with torch.no_grad():
        model[0].bias[:4] = -1e3  # units that never fire
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    follow = Follow("redo", every=3)
    with follow.start(model, optimizer):
        train(model, optimizer, 2)
        assert (model[0].bias[:4] < -900).all()
        train(model, optimizer, 1)
        assert (model[0].bias[:4].abs() < 1).all()
        assert (model[2].weight[:, :4] == 0).all()
    assert not optimizer._optimizer_step_post_hooks
    assert not model._forward_pre_hooks
    train(model, optimizer, 1)
    assert follow.steps == 3


def test_it_resumes_to_the_same_bits() -> None:
    def run(state: Any, steps: int) -> tuple[dict[str, Any], list[torch.Tensor]]:
        model = network()
        optimizer = AdamO(model, lr=1e-2)
        follow = Follow("redo", Monitor, every=2)
        if state is not None:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            follow.load_state_dict(state["follow"])
            torch.set_rng_state(state["rng"])
        with follow.start(model, optimizer):
            train(model, optimizer, steps)
            saved = {
                "model": {k: v.clone() for k, v in model.state_dict().items()},
                "optimizer": optimizer.state_dict(),
                "follow": follow.state_dict(),
                "rng": torch.get_rng_state(),
            }
        return saved, list(model.parameters())

    _, expected = run(None, 10)
    saved, _ = run(None, 5)
    again, found = run(saved, 5)
    assert again["follow"]["steps"] == 10
    assert all(torch.equal(p, q) for p, q in zip(found, expected, strict=True))


def test_inputs_that_another_function_was_given() -> None:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

        def evaluate(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    model = Policy()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    follow = Follow("redo", every=1)
    with follow.start(model, optimizer):
        x = torch.randn(8, 6)
        model.evaluate(x).sum().backward()
        with pytest.raises(IsoplastError, match=r"Policy itself was not called.*saw\(inputs\)"):
            optimizer.step()
        follow.saw(x)
        optimizer.step()


@pytest.mark.parametrize(
    ("arguments", "settings", "word"),
    [
        ((), {}, "nothing to do"),
        ((None, Monitor), {"every": 3}, "every is a setting of a method"),
        (("l2",), {}, "adds a penalty to the loss"),
        (("sam",), {}, "does the optimizer's step itself"),
        (("redo+l2init",), {}, "adds a penalty"),
    ],
)
def test_what_cannot_be_followed(arguments: tuple[Any, ...], settings: dict[str, Any], word: str) -> None:
    with pytest.raises(IsoplastError, match=word) as caught:
        Follow(*arguments, **settings)
    assert "\n" not in str(caught.value)


def test_starts_that_are_refused() -> None:
    model, other = network(), network(1)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(IsoplastError, match="holds no parameter of this Sequential"):
        Follow("redo").start(other, optimizer)
    with pytest.raises(IsoplastError, match=r"changes the network: call prepare"):
        Follow("orthogonal-init").start(model, optimizer)
    with pytest.raises(IsoplastError, match="layernorm changes the network"):
        Follow("layernorm").start(model, optimizer)
    assert not any(isinstance(module, nn.LayerNorm) for module in model.modules())
    normalised = Follow("layernorm")
    plain = network()
    prepared = normalised.prepare(plain)
    with normalised.start(prepared, AdamO(prepared)):
        assert any(isinstance(module, nn.LayerNorm) for module in prepared.modules())
    with pytest.raises(IsoplastError, match="str is no torch optimizer"):
        Follow("redo").start(model, "adam")
    with pytest.raises(IsoplastError, match="start"):
        Follow("redo").new_task()
    follow = Follow("redo")
    with follow.start(model, optimizer), pytest.raises(IsoplastError, match=r"stop\(\) it first"):
        follow.start(model, optimizer)
    with pytest.raises(IsoplastError, match="one of method redo, and this is weight-clipping"):
        Follow("weight-clipping").load_state_dict(follow.state_dict())


def test_adapters_only_where_there_are_adapters() -> None:
    with pytest.raises(IsoplastError, match="no trainable parameter is named like lora_A"):
        adapter_groups(network())
    layer = nn.Module()
    layer.lora_A, layer.lora_B = nn.Linear(64, 8, bias=False), nn.Linear(8, 32, bias=False)
    assert AdamO(adapter_groups(layer)).report().matrices == 1
    with pytest.raises(ValueError, match=r"isometry was asked for lora_B.weight.*adapter_groups\(model\)"):
        AdamO(layer)
    AdamO(layer, isometry=0.0)
