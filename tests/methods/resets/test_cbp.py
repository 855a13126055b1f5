"""Continual Backprop against a plain loop, traces worked out by hand, and ccbp-pytorch.

ccbp-pytorch has the discrete algorithm beside its own continuous one. Its utilities are gradients, so it is
given ours; it starts the age of a replaced unit one step later and has no compensation, so it is compared
over one replacement. The other packages that offer continual learning hold no unit resets.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from ccbp_pytorch import CCBP, NeuronConfig
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isoplast._core.errors import IsoplastError
from isoplast.methods import Training, get
from isoplast.methods._tools._unit_reset import LiveUnits
from isoplast.methods.resets.cbp import ContinualBackprop
from isoplast.nn import build

Chosen = list[tuple[str, list[int]]]


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Chosen:
    """The units that are reset, in order."""
    found: Chosen = []
    renew = LiveUnits._renew

    def watched(self: LiveUnits, units: Tensor) -> None:
        found.append((self.name, sorted(units.tolist())))
        renew(self, units)

    monkeypatch.setattr(LiveUnits, "_renew", watched)
    return found


def step(run: Training, inputs: Tensor) -> None:
    targets = torch.arange(len(inputs)) % 2
    run.step(lambda: cross_entropy(run.model(inputs), targets), inputs=inputs)


def three_units() -> nn.Sequential:
    """Activities 0.5, 1 and 3 on an input of ones; each is read with weights of one."""
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.5], [1.0], [3.0]]))
        model[0].bias.zero_()
        model[2].weight.fill_(1.0)
    return model


def test_only_mature_units_are_selected_lowest_utility_first(chosen: Chosen) -> None:
    """With maturity 2 nobody is old enough before step 3; then unit 0 is the least useful: [[], [], [0]].

    Half a unit is due for three eligible ones at rate 1/3 twice over: the account holds 1, 2/3 of 3 ...
    by hand: step 3 owes 1 and replaces unit 0, step 4 has two eligible units and owes 2/3, step 5 owes 4/3
    and replaces unit 1, unit 0 being young.
    """
    method = ContinualBackprop(replacement_rate=1 / 3 + 1e-9, maturity=2)
    model = method.prepare(three_units())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    run = Training(method, model, optimizer)
    trace = []
    for _ in range(5):
        chosen.clear()
        step(run, torch.ones(2, 1))
        trace.append([units for _, units in chosen])
    assert trace == [[], [], [[0]], [], [[1]]]


def test_the_account_adds_up_to_the_rate(chosen: Chosen) -> None:
    """100 steps of 8 units, all eligible from step 6 on but the replaced: at most 0.01 * 8 * 95."""
    torch.manual_seed(0)
    method = ContinualBackprop(replacement_rate=0.01, maturity=5)
    model = method.prepare(build("mlp", input_shape=(6,), classes=3, width=8, depth=2))
    optimizer = method.optimizer(model, 1e-3)
    run = Training(method, model, optimizer)
    for _ in range(100):
        step(run, torch.randn(4, 6))
    for layer in ("activations.0", "activations.1"):
        replaced = [unit for name, units in chosen for unit in units if name == layer]
        young = 0.01 * 5 * len(replaced)
        assert len(replaced) == math.floor(0.01 * 8 * 95 - young)
        account = method.state["accounts"][layer]
        assert (
            account["young"]
            == int((100 - account["born"] <= 5).sum())
            == sum(n for _, n in account["births"])
        )


def test_utilities_and_means_are_those_of_a_plain_loop() -> None:
    """Running means of |h| sum |w| and of h, against float64 sums over all steps; no replacement yet."""
    torch.manual_seed(0)
    decay, steps = 0.9, 8
    method = ContinualBackprop(replacement_rate=1e-6, decay=decay)
    model = method.prepare(build("mlp", input_shape=(6,), classes=3, width=8, depth=1, activation="tanh"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    run = Training(method, model, optimizer)
    batches = [torch.randn(4, 6) for _ in range(steps)]
    for inputs in batches:
        step(run, inputs)
    layer, head = model.layers[0], model.head  # type: ignore[index]
    hidden = [torch.tanh(layer(inputs)).detach().double() for inputs in batches]  # type: ignore[operator]
    weights = [(1 - decay) * decay ** (steps - 1 - index) for index in range(steps)]
    means = sum(w * h.mean(0) for w, h in zip(weights, hidden, strict=True))
    read = head.weight.detach().double().abs().sum(0)  # type: ignore[union-attr, operator]
    utility = sum(w * h.abs().mean(0) * read for w, h in zip(weights, hidden, strict=True))
    # float32 against float64 over eight steps.
    torch.testing.assert_close(method.state["means"].double(), means, rtol=0, atol=1e-6)
    torch.testing.assert_close(method.state["contributions"].double(), utility, rtol=0, atol=1e-6)


@pytest.mark.parametrize("net", ["mlp", "cnn", "resnet18", "vit"])
def test_replaced_units_are_new_and_unread(net: str, chosen: Chosen) -> None:
    torch.manual_seed(0)
    shapes = {"mlp": (6,), "cnn": (2, 5, 5), "resnet18": (2, 8, 8), "vit": (2, 8, 8)}
    sizes: dict[str, Any] = {
        "mlp": {"width": 8},
        "cnn": {"channels": 4, "width": 8},
        "resnet18": {"width": 4},
        "vit": {"width": 16, "depth": 2, "heads": 2},
    }
    method = ContinualBackprop(replacement_rate=0.05, maturity=2)
    model = method.prepare(build(net, input_shape=shapes[net], classes=3, **sizes[net]))
    optimizer = method.optimizer(model, 1e-2)
    run, replaced = Training(method, model, optimizer), set()
    for number in range(1, 30):
        chosen.clear()
        step(run, torch.randn(4, *shapes[net]))
        last = dict(chosen)
        for live, _ in method.groups:
            for unit in last.get(live.name, []):
                assert method.state["accounts"][live.name]["born"][unit] == number
                for entries in live.outgoing:
                    assert not entries[entries.tensor.detach()][unit].any()
                    assert not entries[optimizer.state[entries.tensor]["exp_avg"]][unit].any()
        replaced |= {name for name, _ in chosen}
    assert replaced
    assert replaced <= {live.name for live, _ in method.groups}
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert owned == {id(p) for p in model.parameters()}


def test_compensation_keeps_the_mean_of_what_the_reader_computes(chosen: Chosen) -> None:
    """On a stationary input the corrected running mean is the mean: the outputs' mean stays.

    Without compensation it moves by the unit's contribution, which is of order one here.
    """
    torch.manual_seed(0)
    method = ContinualBackprop(replacement_rate=0.05, maturity=3, decay=0.5)
    model = method.prepare(build("mlp", input_shape=(6,), classes=3, width=8, depth=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    run = Training(method, model, optimizer)
    inputs = torch.randn(16, 6) + 1.0
    for _ in range(8):
        before = model(inputs).mean(0).detach()
        bias = model.head.bias.detach().clone()  # type: ignore[union-attr, operator]
        step(run, inputs)
        if chosen:
            break
    assert chosen
    # float32 means of sixteen numbers of order one.
    torch.testing.assert_close(model(inputs).mean(0), before, rtol=0, atol=2e-6)
    assert (model.head.bias - bias).abs().max() > 1e-3  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("kind", ["adam", "momentum"])
def test_a_replacement_is_that_of_ccbp_pytorch(kind: str, chosen: Chosen) -> None:
    """The same units, the same zeros in weights and optimizer, to the bit; but for the compensation."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    theirs = copy.deepcopy(ours)
    make = {
        "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
        "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    }[kind]
    method = ContinualBackprop(replacement_rate=0.25, maturity=2, decay=0.0)
    ours = method.prepare(ours)
    optimizer = make(ours.parameters())
    run = Training(method, ours, optimizer)
    hidden: list[Tensor] = []
    theirs[1].register_forward_hook(lambda *seen: hidden.append(seen[2].detach()))
    # Replacement reads the outgoing weights; ours refreshes their sums at step 1, 11, ...
    magnitudes = theirs[2].weight.detach().abs().sum(0)

    units = NeuronConfig(theirs[0].weight, bias=theirs[0].bias, outgoing_param=theirs[2].weight)  # type: ignore[arg-type]
    other = CCBP(
        make(theirs.parameters()),
        neuron_configs=[units],
        continuous=False,
        replacement_rate=0.25,
        reset_interval=3,
        maturity_steps=2,
        utility_ema_decay=0.0,
        utility_fn=lambda _: hidden[-1].abs().mean(0) * magnitudes,
        second_moment_policy="zero",
    )
    for number in (1, 2, 3):
        inputs, targets = torch.randn(16, 6), torch.arange(16) % 2
        other.zero_grad()
        cross_entropy(theirs(inputs), targets).backward()
        other.step()
        if number == 1:  # as the method sees them, after the first step
            magnitudes = theirs[2].weight.detach().abs().sum(0)
        step(run, inputs)
    ((_, replaced),) = chosen
    assert replaced == (~theirs[2].weight.any(0)).nonzero().flatten().tolist()
    assert len(replaced) == 2
    kept = torch.ones(8, dtype=torch.bool).index_fill_(0, torch.tensor(replaced), False)
    assert torch.equal(ours[0].weight[kept], theirs[0].weight[kept])
    assert torch.equal(ours[0].bias[kept], theirs[0].bias[kept])
    assert torch.equal(ours[2].weight, theirs[2].weight)
    assert not torch.equal(ours[2].bias, theirs[2].bias)
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        for key, value in optimizer.state[one].items():
            assert torch.equal(value, other.base_optimizer.state[two][key]), key


def test_running_means_keep_up_under_autocast() -> None:
    """A feature of one: after 500 steps at 0.99 its mean is 1 - 0.99^500 = 0.993, in bfloat16 0.8 or so."""
    method = ContinualBackprop(replacement_rate=1e-9)
    model = method.prepare(three_units())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    run = Training(method, model, optimizer)
    for _ in range(500):
        with torch.autocast("cpu", torch.bfloat16):
            step(run, torch.ones(2, 1))
    expected = torch.tensor([0.5, 1.0, 3.0]) * (1 - 0.99**500)
    # float32 sums of 500 terms.
    torch.testing.assert_close(method.state["means"], expected, rtol=1e-4, atol=0)


def test_rate_zero_is_adam_to_the_bit() -> None:
    ends = []
    for name, settings in (("adam", {}), ("cbp", {"replacement_rate": 0.0})):
        torch.manual_seed(0)
        method = get(name, **settings)
        model = method.prepare(build("cnn", input_shape=(2, 5, 5), classes=3, channels=4, width=8))
        optimizer = method.optimizer(model, 1e-2)
        run = Training(method, model, optimizer)
        for _ in range(19):
            step(run, torch.randn(4, 2, 5, 5))
        ends.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_a_copy_of_the_network_counts_for_itself() -> None:
    """A probe that trains a copy must not change what the method remembers."""
    torch.manual_seed(0)
    method = ContinualBackprop(replacement_rate=1e-3)
    model = method.prepare(build("mlp", input_shape=(6,), classes=3, width=8))
    optimizer = method.optimizer(model, 1e-2)
    run = Training(method, model, optimizer)
    step(run, torch.randn(4, 6))
    twin, before = copy.deepcopy(model), copy.deepcopy(method.state)
    seen = [sensor.value for _, sensors in method.groups for sensor in sensors]
    twin(torch.full((4, 6), 100.0))
    model.eval()
    model(torch.full((4, 6), 100.0))
    assert all(
        old is sensor.value
        for old, sensor in zip(seen, (s for _, several in method.groups for s in several), strict=True)
    )
    torch.testing.assert_close(method.state, before, rtol=0, atol=0)


def test_bad_settings() -> None:
    for settings, message in (
        ({"replacement_rate": 1.5}, "replacement_rate of method cbp is 1.5"),
        ({"decay": 1.0}, "decay of method cbp is 1.0"),
        ({"maturity": -1}, "maturity of method cbp is -1"),
    ):
        with pytest.raises(IsoplastError, match=message):
            get("cbp", **settings)
