"""Resets of whole layers, plasticity injection, Hare and Tortoise: on small cases, tensor by tensor."""

from __future__ import annotations

import copy

import pytest
import torch
from contract_runs import batch, network, started, step, train, values
from torch import Tensor, nn

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import StepContext, Training, training
from isoplast.methods._tools._execution import last_layers
from isoplast.methods._tools._fresh import redraw
from isoplast.methods.resets.plasticity_injection import InjectedHead

INPUTS = torch.ones(2, 6)


def trained(name: str, net: str = "mlp", steps: int = 7, **settings: object) -> Training:
    """After some steps of its first task."""
    run = started(name, net, **settings)
    train(run, steps, net=net)
    return run


def test_a_full_reset_is_a_newly_built_network_with_a_new_optimizer() -> None:
    """What it does from there on is what a network does that was built from the same random numbers."""
    run = trained("full-reset", "resnet18")
    model, optimizer = run.model, run.optimizer
    torch.manual_seed(3)
    run.new_task()
    fresh = network("resnet18", seed=3)
    plain = training("adam", fresh, lr=1e-2)
    expected = values(fresh)
    assert all(torch.equal(value, expected[name]) for name, value in values(model).items()), "buffers as well"
    assert not optimizer.state
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(5):
        data = batch("resnet18", generator)
        step(run, data)
        step(plain, data)
    expected = values(fresh)
    assert all(torch.equal(value, expected[name]) for name, value in values(model).items())


def test_of_a_network_of_another_kind_nothing_learned_survives_a_full_reset() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    nn.init.orthogonal_(model[0].weight, 2.0)
    first = copy.deepcopy(model)
    run = training("full-reset", model, lr=1e-2)
    train(run, 7)
    torch.manual_seed(9)
    run.new_task()
    torch.manual_seed(9)
    for name, parameter in first.named_parameters():
        assert torch.equal(dict(model.named_parameters())[name], redraw(parameter))
    torch.testing.assert_close(torch.linalg.svdvals(model[0].weight.detach()), torch.full((5,), 2.0))
    assert torch.equal(model[1].running_var, torch.ones(5))
    assert model[1].num_batches_tracked == 0


@pytest.mark.parametrize(
    ("name", "net", "prefixes"),
    [
        ("head-reset", "mlp", ("head.",)),
        ("head-reset", "vit", ("head.",)),
        ("last-layers-reset", "mlp", ("layers.0.", "layers.1.", "head.")),
        # The last block has no shortcut to project: its two convolutions with their norms, and the head.
        ("last-layers-reset", "resnet18", ("blocks.7.", "head.")),
        ("last-layers-reset", "vit", ("blocks.1.expand.", "blocks.1.contract.", "norm.", "head.")),
    ],
)
def test_a_reset_draws_its_layers_anew_and_touches_nothing_else(
    name: str, net: str, prefixes: tuple[str, ...]
) -> None:
    run = trained(name, net)
    model, optimizer = run.model, run.optimizer
    before, moments = values(model), {p: dict(state) for p, state in optimizer.state.items()}
    torch.manual_seed(3)
    run.new_task()
    fresh = values(network(net, seed=3))
    for key, value in values(model).items():
        reset = key.startswith(prefixes)
        assert torch.equal(value, fresh[key] if reset else before[key]), key
    for key, parameter in model.named_parameters():
        if key.startswith(prefixes):
            assert parameter not in optimizer.state, "its moments start anew"
        else:
            assert torch.equal(optimizer.state[parameter]["exp_avg"], moments[parameter]["exp_avg"])
    step(run, batch(net, torch.Generator().manual_seed(0)))
    assert all(p in optimizer.state for p in model.parameters())


def test_last_layers_are_counted_in_the_order_of_execution() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.third, self.second, self.first = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.third(self.second(self.first(inputs)))

    method = methods.get("last-layers-reset")
    assert last_layers(method, Backwards(), 2) == ["second", "third"]
    with pytest.raises(
        IsoplastError, match="layers of method last-layers-reset is 4: Backwards has 3 layers"
    ):
        methods.get("last-layers-reset", layers=4).prepare(Backwards())


def test_where_a_network_cannot_be_traced_layers_are_counted_as_registered() -> None:
    class Branching(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) if inputs.sum() > 0 else inputs

    model = Branching(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    assert last_layers(methods.get("last-layers-reset"), model, 1) == ["2"]
    with pytest.raises(
        IsoplastError, match="plasticity-injection must trace Branching to cut it in front of 0"
    ):
        methods.get("plasticity-injection").prepare(model)


@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop]
)
def test_an_optimizer_reset_makes_any_optimizer_a_new_one(kind: type[torch.optim.Optimizer]) -> None:
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    model = network()
    optimizer = kind(model.parameters(), lr=1e-2, **settings)
    run = Training(methods.get("optimizer-reset"), model, optimizer)
    train(run, 7)
    optimizer.param_groups[0]["lr"] = 5e-3
    run.new_task()
    twin = copy.deepcopy(model)
    new = kind(twin.parameters(), lr=5e-3, **settings)
    data = batch("mlp", torch.Generator().manual_seed(0))
    step(run, data)
    step(Training(methods.get("adam"), twin, new), data)
    expected = values(twin)
    assert all(torch.equal(value, expected[name]) for name, value in values(model).items())


def test_an_optimizer_reset_restarts_what_the_groups_count() -> None:
    run = started("schedule-free+optimizer-reset")
    optimizer = run.optimizer
    train(run, 7)
    counted = {key for group in optimizer.param_groups for key, value in group.items() if value == 7}
    assert counted, "schedule-free optimizers count steps in their groups"
    run.new_task()
    assert all(group[key] == 0 for group in optimizer.param_groups for key in counted)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_softened_moments_are_a_share_of_what_they_were(kind: type[torch.optim.Optimizer]) -> None:
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    model = network()
    optimizer = kind(model.parameters(), lr=1e-2, **settings)
    run = Training(methods.get("softened-moments", factor=0.25), model, optimizer)
    train(run, 3)
    before = copy.deepcopy(optimizer.state_dict()["state"])
    run.new_task()
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            old = before[number][name]
            assert torch.equal(value, old if value.dim() == 0 else 0.25 * old), name
            assert value.dim() == 0 or bool((old != 0).any())


def test_softened_by_one_changes_nothing() -> None:
    run = started("softened-moments", factor=1.0)
    train(run, 3)
    before = copy.deepcopy(run.optimizer.state_dict()["state"])
    run.new_task()
    after = run.optimizer.state_dict()["state"]
    assert all(torch.equal(after[n][key], value) for n, old in before.items() for key, value in old.items())


def head_of(model: nn.Module) -> InjectedHead:
    return next(module for module in model.modules() if isinstance(module, InjectedHead))


@pytest.mark.parametrize("net", ["mlp", "cnn", "resnet18", "vit"])
@pytest.mark.parametrize("layers", [1, 2])
def test_injection_keeps_the_function_and_then_trains_only_the_new_head(net: str, layers: int) -> None:
    run = started("plasticity-injection", net, after=5, layers=layers)
    model = run.model
    train(run, 4, net=net)
    head, probe = head_of(model), batch(net, torch.Generator().manual_seed(7))[0]
    assert head.injected is False
    assert all(
        torch.equal(one, other)
        for one, other in zip(head.new.parameters(), head.start.parameters(), strict=True)
    )
    twin = copy.deepcopy(model)  # stays without injection
    data = batch(net, torch.Generator().manual_seed(8))
    step(run, data)
    assert head.injected is True
    before = values(model)
    head_of(twin).injected = False
    twin.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.endswith("extra_state")}, strict=False
    )
    # h + (h' - h'_0) with h' = h'_0 adds an exact zero.
    assert torch.equal(model.eval()(probe), twin.eval()(probe))
    model.train()
    train(run, 5, net=net)
    after = values(model)
    changed = {name for name, _ in model.named_parameters() if not torch.equal(before[name], after[name])}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert changed == trainable
    assert {name.split(".")[1] for name in changed if name.startswith("submod_1")} == {"new"}
    assert all(p.grad is None for p in head.old.parameters())


def test_neither_momentum_nor_decay_moves_the_old_head() -> None:
    method = methods.get("plasticity-injection", after=5)
    model = method.prepare(network())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    run = Training(method, model, optimizer)
    train(run, 5)
    old = [p.detach().clone() for p in head_of(model).old.parameters()]
    train(run, 10)
    assert all(
        torch.equal(one, other) for one, other in zip(old, head_of(model).old.parameters(), strict=True)
    )
    assert not any(p in optimizer.state for p in head_of(model).old.parameters())


def test_the_injected_head_is_drawn_like_the_networks_own() -> None:
    method = methods.get("plasticity-injection", layers=1)
    model = method.prepare(network())
    head = head_of(model)
    new, old = (next(iter(part.parameters())).detach() for part in (head.new, head.old))
    assert not torch.equal(new, old)
    torch.testing.assert_close(torch.linalg.svdvals(new), torch.ones(3))


@pytest.mark.parametrize("company", ["l2", "weight-clipping", "shrink-perturb-tasks", "orthogonal-init"])
def test_injection_keeps_the_function_whatever_moved_the_new_head_before(company: str) -> None:
    run = started(f"plasticity-injection+{company}", after=20)
    model, optimizer = run.model, run.optimizer
    train(run, 19)
    probe = torch.randn(4, 6)
    head, injection = head_of(model), methods.get("plasticity-injection", after=20)
    start = copy.deepcopy(head.start)
    assert any(not torch.equal(*pair) for pair in zip(head.new.parameters(), start.parameters(), strict=True))
    before = model(probe)
    injection.after_step(StepContext(model, optimizer, probe, torch.zeros(()), 20))
    assert torch.equal(model(probe), before)
    assert all(torch.equal(*pair) for pair in zip(head.new.parameters(), start.parameters(), strict=True))
    assert not any(p in optimizer.state for p in head.new.parameters()), "a fresh head has no moments"


@pytest.mark.parametrize("name", ["dropout+plasticity-injection", "plasticity-injection+dropout"])
def test_hooks_sit_on_the_layers_that_injection_leaves(name: str) -> None:
    model = started(name).model.train()
    assert not torch.equal(model(INPUTS), model(INPUTS)), "nothing was dropped"


def test_what_is_frozen_before_an_injection_is_freed_with_its_method() -> None:
    run = started("layernorm+nap+plasticity-injection")
    model = run.model
    run.release()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"submod_1.start.{name}" for name, _ in head_of(model).start.named_parameters()}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("redo+plasticity-injection", "both reset units by statistics of their own"),
        ("full-reset+plasticity-injection", "both start whole layers anew"),
        ("hare-tortoise+full-reset", "goes back to an average over the weights that full-reset has changed"),
        ("newton-schulz+parseval", "newton-schulz computes the weights that parseval would hold"),
        ("head-reset+c-chain", "c-chain would pull the network back to its outputs from before head-reset"),
        (
            "nap+layernorm+schedule-free",
            "schedule-free averages weights of its own, which nap does not reach",
        ),
    ],
)
def test_resets_and_what_would_undo_them_are_refused_together(name: str, reason: str) -> None:
    with pytest.raises(IsoplastError, match=rf"cannot be combined: .*{reason}.*; leave one of them out$"):
        methods.get(name)


def test_an_injection_that_never_happens_is_reported() -> None:
    run = started("plasticity-injection", after=100)
    assert "never happens in a run of 100" in run.report(100)[0]
    assert run.report(101) == []


def test_the_tortoise_is_the_running_average_and_the_hare_goes_back_to_it() -> None:
    run = started("hare-tortoise", "resnet18", momentum=0.75, every=4)
    method, model = run.method, run.model
    average = values(model)
    generator = torch.Generator().manual_seed(0)
    for number in range(1, 9):
        step(run, batch("resnet18", generator))
        tortoise = method.state["tortoise"]
        if number % 4 == 0:
            assert all(torch.equal(value, tortoise[name]) for name, value in values(model).items())
        else:
            for name, value in values(model).items():
                average[name] = (
                    value if not value.is_floating_point() else 0.75 * average[name] + 0.25 * value
                )
            # The same average in another order of operations.
            torch.testing.assert_close(tortoise, average, rtol=1e-4, atol=1e-6)
            continue
        average = {name: value.clone() for name, value in tortoise.items()}


def test_the_tortoises_span_is_reported_and_a_hare_that_never_goes_back() -> None:
    run = started("hare-tortoise")
    (span,) = run.report(2000)
    assert span.endswith("an average over about 1000 steps")
    assert run.report(1999)[1] == ("warning: the hare goes back every 2000 steps, in a run of 1999 never")


def test_the_tortoise_is_evaluated_and_the_hare_trains_on_to_the_bit() -> None:
    run = trained("hare-tortoise", "resnet18")
    method, model = run.method, run.model
    hare, tortoise = values(model), copy.deepcopy(method.state["tortoise"])
    with run.evaluated() as shown:
        assert all(torch.equal(value, tortoise[name]) for name, value in values(shown).items())
    assert all(torch.equal(value, hare[name]) for name, value in values(model).items())
    with pytest.raises(RuntimeError), run.evaluated():
        raise RuntimeError
    assert all(torch.equal(value, hare[name]) for name, value in values(model).items())
