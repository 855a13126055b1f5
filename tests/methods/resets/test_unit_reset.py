"""Making units new: what is fresh, what is zero, what the optimizer forgets, and what stays to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from isoplast import AdamO, attach
from isoplast._core.errors import IsoplastError
from isoplast.methods import get, trace_units
from isoplast.methods._tools._unit_reset import Entries, LiveUnits, reset_
from isoplast.nn import build

NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"input_shape": (6,), "width": 8, "depth": 2},
    "cnn": {"input_shape": (2, 5, 5), "channels": 4, "width": 8},
    "resnet18": {"input_shape": (2, 8, 8), "width": 4},
    "vit": {"input_shape": (2, 8, 8), "width": 16, "depth": 2, "heads": 2},
}
Make = Callable[[Iterable[Tensor]], Optimizer]


def attached(params: Iterable[Tensor]) -> Optimizer:
    optimizer = torch.optim.SGD(params, lr=1e-2, momentum=0.9)
    attach(optimizer, isometry=1e-2)
    return optimizer


OPTIMIZERS: dict[str, Make] = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "fused amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "adamo": lambda p: AdamO(p, lr=1e-2),
    "sgdo": attached,
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, centered=True, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adadelta": lambda p: torch.optim.Adadelta(p),
}
if hasattr(torch.optim, "Muon"):
    OPTIMIZERS["muon"] = lambda p: torch.optim.Muon([each for each in p if each.dim() == 2], lr=1e-2)


def trained(net: str, make: Make, **options: Any) -> tuple[nn.Module, Optimizer, Tensor]:
    """A network after three steps, its optimizer and a batch."""
    torch.manual_seed(0)
    model = build(net, classes=3, **{"activation": "tanh", **NETWORKS[net], **options})
    optimizer = make(model.parameters())
    inputs, targets = torch.randn(8, *NETWORKS[net]["input_shape"]), torch.randint(3, (8,))
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model, optimizer, inputs


def live_units(model: nn.Module) -> list[LiveUnits]:
    state: dict[str, Any] = {}
    return [LiveUnits(group, model, state) for group in trace_units(model)]


def owned(model: nn.Module, live: LiveUnits, units: Tensor) -> dict[str, Tensor]:
    """For every tensor of the model a mask of what the units own in it."""
    masks = {name: torch.zeros_like(t, dtype=torch.bool) for name, t in model.state_dict().items()}
    for entries in (*live.incoming, *live.scales, *live.outgoing):
        entries[masks[entries.name]][units] = True
    return masks


@pytest.mark.parametrize("net", NETWORKS)
def test_a_reset_writes_what_the_units_own_and_nothing_else(net: str) -> None:
    model, optimizer, _ = trained(net, OPTIMIZERS["adam"], bias=True)
    units = torch.tensor([0, 3])
    for live in live_units(model):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        moments = copy.deepcopy(optimizer.state_dict()["state"])
        reset_([(live, units)], optimizer)
        masks = owned(model, live, units)
        for name, value in model.state_dict().items():
            assert torch.equal(value[~masks[name]], before[name][~masks[name]]), name
        for entries in live.incoming:
            rows = entries[entries.tensor.detach()][units]
            if entries.slot.tensor == "bias":
                assert not rows.any()
                continue
            assert (rows != entries[before[entries.name]][units]).all()
            # Each row has the initial norm; the networks start orthogonal, so that is known.
            out, fan_in = entries.tensor.flatten(1).shape
            # float32 rounding of a norm of up to 300 entries.
            torch.testing.assert_close(
                rows.flatten(2).norm(dim=2),
                torch.full(rows.shape[:2], min(1.0, (fan_in / out) ** 0.5)),
                rtol=0.2,  # three steps of 0.01 from the start, where the norm was taken
                atol=0,
            )
        for entries in live.outgoing:
            assert not entries[entries.tensor.detach()][units].any()
        for entries in live.scales:
            expected = 1.0 if entries.slot.tensor in ("weight", "running_var") else 0.0
            assert (entries[entries.tensor.detach()][units] == expected).all()
        for index, (name, _) in enumerate(model.named_parameters()):
            for key in ("exp_avg", "exp_avg_sq"):
                state = optimizer.state_dict()["state"][index][key]
                assert not state[masks[name]].any(), (name, key)
                assert torch.equal(state[~masks[name]], moments[index][key][~masks[name]])
            assert optimizer.state_dict()["state"][index]["step"] == 3


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_any_optimizer_forgets_the_units_and_goes_on(kind: str) -> None:
    model, optimizer, inputs = trained("mlp", OPTIMIZERS[kind])
    params = [id(p) for group in optimizer.param_groups for p in group["params"]]
    live = live_units(model)[1]
    units = torch.tensor([2])
    reset_([(live, units)], optimizer)
    masks = owned(model, live, units)
    names = {id(p): name for name, p in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        mask = masks[names[id(parameter)]]
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                assert not value[mask].any(), key
                assert value[~mask].any(), key
    assert params == [id(p) for group in optimizer.param_groups for p in group["params"]]
    before = live.outgoing[0].tensor.detach().clone()
    cross_entropy(model(inputs), torch.zeros(8, dtype=torch.long)).backward()
    optimizer.step()
    assert (live.outgoing[0].tensor != before)[:, 2].all()


def test_copies_of_the_weights_in_the_optimizer_get_the_new_ones() -> None:
    """Averaged SGD keeps an average of the weights, Rprop a step size for each."""
    model, optimizer, _ = trained("mlp", lambda p: torch.optim.ASGD(p, lr=1e-2))
    live, units = live_units(model)[0], torch.tensor([1])
    reset_([(live, units)], optimizer)
    for entries in (*live.incoming, *live.outgoing):
        assert torch.equal(
            entries[optimizer.state[entries.tensor]["ax"]][units], entries[entries.tensor.detach()][units]
        )
    model, optimizer, _ = trained("mlp", lambda p: torch.optim.Rprop(p, lr=3e-3))
    live = live_units(model)[0]
    reset_([(live, units)], optimizer)
    sizes = optimizer.state[live.incoming[0].tensor]["step_size"]
    assert (sizes[1] == 3e-3).all()
    assert not (sizes == 3e-3).all()


@pytest.mark.parametrize("name", ["madgrad", "prodigy", "ranger", "schedulefreeadamw", "srmm"])
def test_optimizers_that_remember_weights_do_not_bring_the_old_ones_back(name: str) -> None:
    """Without gradient and with its state new, a reset unit stays where it was put."""
    model, optimizer, _ = trained("mlp", lambda p: pytorch_optimizer.load_optimizer(name)(list(p), lr=1e-2))
    live, units = live_units(model)[0], torch.tensor([1, 4])
    reset_([(live, units)], optimizer)
    before = live.incoming[0].tensor.detach().clone()
    for _ in range(6):  # Ranger looks back every sixth step
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    # A new unit has a row of norm 0.9; memories of gradients may decay the others.
    torch.testing.assert_close(live.incoming[0].tensor[units], before[units], rtol=0, atol=1e-6)
    assert not live.outgoing[0].tensor[:, units].any()


def test_preconditioners_are_no_memory_of_single_entries() -> None:
    """Shampoo keeps (8, 8) matrices for a weight (8, 8): none of their rows is a unit's."""
    model, optimizer, _ = trained(
        "mlp", lambda p: pytorch_optimizer.load_optimizer("shampoo")(list(p), lr=1e-2)
    )
    live, units = live_units(model)[1], torch.tensor([1])
    state = optimizer.state[live.incoming[0].tensor]
    kept = {key: value.clone() for key, value in state.items() if "cond" in key}
    reset_([(live, units)], optimizer)
    assert kept
    assert all(torch.equal(state[key], value) for key, value in kept.items())


def test_adagrad_starts_again_from_its_constant() -> None:
    model, optimizer, _ = trained(
        "mlp", lambda p: torch.optim.Adagrad(p, lr=1e-2, initial_accumulator_value=0.5)
    )
    live, units = live_units(model)[0], torch.tensor([1])
    reset_([(live, units)], optimizer)
    sums = optimizer.state[live.incoming[0].tensor]["sum"]
    assert (sums[1] == 0.5).all()
    assert (sums[0] > 0.5).any()


def test_factored_moments_are_cleared_along_the_units() -> None:
    model, optimizer, _ = trained("mlp", lambda p: torch.optim.Adafactor(p, lr=1e-2))
    live, units = live_units(model)[1], torch.tensor([1])
    reset_([(live, units)], optimizer)
    incoming, outgoing = (optimizer.state[each.tensor] for each in (live.incoming[0], live.outgoing[0]))
    assert not incoming["row_var"][1].any()
    assert incoming["row_var"][0].all()
    assert not outgoing["col_var"][:, 1].any()
    assert outgoing["col_var"][:, 0].all()


def kill(model: nn.Module, live: LiveUnits, units: Tensor) -> None:
    """Make ReLU units that are silent whatever comes in."""
    for entries in live.incoming:
        entries[entries.tensor.detach()][units] = 0.0 if entries.slot.tensor == "weight" else -1.0
    for entries in live.scales:
        if entries.slot.tensor in ("weight", "bias"):
            entries[entries.tensor.detach()][units] = 0.0 if entries.slot.tensor == "weight" else -1.0


@pytest.mark.parametrize("normalization", [None, "batchnorm"])
@pytest.mark.parametrize("net", NETWORKS)
def test_resetting_dead_units_keeps_the_function(net: str, normalization: str | None) -> None:
    """In float64 to 1e-12, for all groups of a network one after the other."""
    if net == "vit":
        normalization = "layernorm"
    torch.manual_seed(0)
    model = build(net, classes=3, normalization=normalization, **NETWORKS[net]).double().eval()
    optimizer = torch.optim.Adam(model.parameters())
    inputs, units = torch.randn(4, *NETWORKS[net]["input_shape"], dtype=torch.float64), torch.tensor([0, 2])
    for live in live_units(model):
        if live.group.kind == "hidden":
            kill(model, live, units)
            expected = model(inputs)
            reset_([(live, units)], optimizer)
            torch.testing.assert_close(model(inputs), expected, rtol=0, atol=1e-12)


def test_units_of_neighbouring_layers_reset_together_do_not_read_each_other() -> None:
    model, optimizer, _ = trained("mlp", OPTIMIZERS["adam"])
    first, second = live_units(model)
    reset_([(first, torch.tensor([1])), (second, torch.tensor([2, 3]))], optimizer)
    between = model.layers[1].weight  # type: ignore[index, union-attr]
    assert not between[:, 1].any()  # type: ignore[index, operator]
    assert (between[2:4, torch.arange(8) != 1] != 0).all()  # type: ignore[index, attr-defined]


def test_channels_last_weights_are_reset_in_place() -> None:
    model, optimizer, _ = trained("cnn", OPTIMIZERS["adam"])
    model = model.to(memory_format=torch.channels_last)
    live = live_units(model)[1]
    assert not live.outgoing[0].tensor.is_contiguous()
    reset_([(live, torch.tensor([2]))], optimizer)
    assert not live.outgoing[0].tensor[:, 2].any()
    assert (live.outgoing[0].tensor[:, 1] != 0).all()


def test_fresh_rows_are_isotropic() -> None:
    """Their second moment is the identity over the fan-in, as for rows of an orthogonal matrix."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4000), nn.ReLU(), nn.Linear(4000, 1))
    nn.init.orthogonal_(model[0].weight, 3.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (live,) = live_units(model)
    reset_([(live, torch.arange(4000))], optimizer)
    rows = model[0].weight.detach()
    norm = 3.0 * (4 / 4000) ** 0.5
    torch.testing.assert_close(rows.norm(dim=1), torch.full((4000,), norm), rtol=1e-5, atol=0)
    # 4000 samples: the moments spread by 1 / sqrt(4000) = 1.6 % of each, five times that.
    torch.testing.assert_close(rows.T @ rows / (4000 * norm**2), torch.eye(4) / 4, rtol=0, atol=0.02)


@pytest.mark.parametrize(("net", "activation"), [("mlp", "crelu"), ("cnn", "tanh"), ("cnn", "maxmin")])
def test_absorbing_keeps_the_mean_of_the_readers(net: str, activation: str) -> None:
    """What the taken units gave on average is in the bias: exact behind 1 x 1 taps and linear layers."""
    torch.manual_seed(0)
    model = build(net, classes=3, activation=activation, **NETWORKS[net]).double()
    inputs, units = torch.randn(16, *NETWORKS[net]["input_shape"], dtype=torch.float64), torch.tensor([1])
    for live in live_units(model):
        (reader,) = live.readers
        if isinstance(reader.module, nn.Conv2d):
            continue
        seen: list[tuple[Tensor, Tensor]] = []
        hook = reader.module.register_forward_hook(lambda m, x, y: seen.append((x[0].detach(), y.detach())))  # noqa: B023
        model(inputs)
        means = reader.probe.units_first(seen[0][0].mean(0))[units]
        with torch.no_grad():
            reader.absorb_(units, means)
            for entries in live.outgoing:
                entries.fill_(units, 0.0)
        model(inputs)
        hook.remove()
        torch.testing.assert_close(seen[1][1].mean(0), seen[0][1].mean(0), rtol=0, atol=1e-12)
        assert not torch.allclose(seen[1][1], seen[0][1])


def test_absorbing_into_convolutions_of_every_kind() -> None:
    """With circular padding there is no border, and the mean over samples and positions stays."""
    torch.manual_seed(0)
    circular: dict[str, Any] = {"padding": 1, "padding_mode": "circular", "dtype": torch.float64}
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, **circular), nn.Tanh(), nn.Conv2d(4, 8, 3, groups=4, **circular), nn.Tanh(),
        nn.Conv2d(8, 2, 3, **circular),
    )  # fmt: skip
    inputs, units = torch.randn(3, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 3])
    for live, place in zip(live_units(model), (2, 4), strict=True):
        (reader,) = live.readers
        hidden = model[:place](inputs).detach()
        before = model[place](hidden).detach().mean((0, 2, 3))
        with torch.no_grad():
            reader.absorb_(units, reader.probe.units_first(hidden.mean((0, 2, 3)))[units])
            live.outgoing[0].fill_(units, 0.0)
        torch.testing.assert_close(model[place](hidden).mean((0, 2, 3)), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(7, 5), (131, 71), (700, 300)])
def test_magnitudes_are_the_column_sums(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, shape[1]), nn.ReLU(), nn.Linear(*reversed(shape)))
    (reader,) = live_units(model)[0].readers
    with torch.no_grad():
        expected = model[2].weight.double().abs().sum(0)
        # Sums of up to 700 positive float32 numbers.
        torch.testing.assert_close(reader.magnitudes().double(), expected, rtol=1e-5, atol=0)


def test_weights_that_are_computed_cannot_be_reset() -> None:
    model = build("mlp", input_shape=(6,), classes=3, width=8, depth=1, linear="isometric")
    with pytest.raises(IsoplastError, match=r"layers.0.weight is computed from other parameters"):
        live_units(model)
    plain = nn.Sequential(
        nn.Linear(2, 4), nn.ReLU(), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 2))
    )
    with pytest.raises(IsoplastError, match=r"2.weight is computed from other parameters"):
        live_units(plain)


class Standardised(nn.Conv2d):
    """A kernel without mean: a column of zeros is none any more."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight - weight.mean((1, 2, 3), keepdim=True), bias)


def test_layers_with_a_forward_of_their_own_are_refused_before_training() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), Standardised(4, 2, 1))
    with pytest.raises(
        IsoplastError, match=r"2 \(Standardised\) has a forward of its own.*declare_units"
    ) as error:
        get("redo").prepare(model)
    assert "\n" not in str(error.value)


def test_frozen_weights_are_known_as_such() -> None:
    model, _, _ = trained("mlp", OPTIMIZERS["adam"])
    model.layers[0].requires_grad_(False)  # type: ignore[index, union-attr]
    assert [live.trainable for live in live_units(model)] == [False, True]
    with pytest.raises(
        IsoplastError, match="finds no unit that it could reset: all their weights are frozen"
    ):
        get("redo").prepare(model.requires_grad_(False))


def test_entries_are_views() -> None:
    weight = nn.Parameter(torch.zeros(2, 6))
    model = nn.Module()
    model.weight = weight
    (slot,) = trace_units(nn.Sequential(nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 2)))[0].outgoing
    Entries(weight, slot)[weight.detach()][torch.tensor([4])] = 1.0
    assert weight.sum() == 2.0


@pytest.mark.parametrize("name", ["redo+nap+layernorm", "nap+layernorm+cbp"])
def test_units_with_frozen_biases_are_reset_all_the_same_and_the_biases_stay(name: str) -> None:
    """NaP freezes biases, gains and offsets: a reset that waited for them would never come."""
    method = get(name)
    model = method.prepare(build("mlp", classes=3, **NETWORKS["mlp"]))
    optimizer = method.optimizer(model, 1e-2)
    method.begin(model, optimizer)
    (resets,) = (part for part in method.parts if hasattr(part, "groups"))
    groups = [live for live, _ in resets.groups]
    assert len(groups) == 2
    frozen = {
        key: p.detach().clone().fill_(0.5) for key, p in model.named_parameters() if not p.requires_grad
    }
    model.load_state_dict(frozen, strict=False)
    before = copy.deepcopy(model.state_dict())
    reset_([(groups[0], torch.tensor([1]))], optimizer)
    for reader in groups[0].readers:
        reader.absorb_(torch.tensor([2]), torch.ones(1, 1, 1))
    after = model.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed == {"layers.0.weight", "layers.1.weight"}
