"""Finding the hidden units of a network, against what is known of networks small enough to see through."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.methods import UnitGroup, Units, declare_units, head_name, trace_units
from isoplast.model.units._groups import Slot
from isoplast.nn import CReLU, MaxMin, build

NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"input_shape": (6,), "width": 8, "depth": 2},
    "cnn": {"input_shape": (2, 5, 5), "channels": 4, "width": 8},
    "resnet18": {"input_shape": (2, 8, 8), "width": 4},
    "vit": {"input_shape": (2, 8, 8), "width": 16, "depth": 2, "heads": 2},
}


def summary(units: Units) -> dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]]:
    return {group.name: (group.size, group.producers, group.consumers) for group in units}


def group_named(model: nn.Module, name: str) -> UnitGroup:
    return next(group for group in trace_units(model) if group.name == name)


def cut(model: nn.Module, group: UnitGroup, unit: int) -> None:
    """Take the outgoing weights of one unit away."""
    for slot in group.outgoing:
        slot.view(slot.find(model).data)[unit].zero_()


def shake(model: nn.Module, group: UnitGroup, unit: int) -> None:
    """Give one unit other incoming weights."""
    for slot in group.incoming:
        rows = slot.view(slot.find(model).data)[unit]
        rows.add_(torch.randn_like(rows))


@pytest.mark.parametrize("net", NETWORKS)
def test_what_a_unit_owns_is_all_that_makes_it_and_all_that_reads_it(net: str) -> None:
    """Cut from its readers, a unit may be made in any way: in float64 the outputs stay to 1e-12.

    And every part of what it owns matters: with its readers, other incoming weights change the outputs.
    """
    torch.manual_seed(0)
    # A ReLU could be off before and after.
    model = build(net, classes=3, activation="tanh", **NETWORKS[net]).double().eval()
    inputs = torch.randn(3, *NETWORKS[net]["input_shape"], dtype=torch.float64)
    for group in trace_units(model):
        changed = copy.deepcopy(model)
        shake(changed, group, 1)
        assert not torch.allclose(changed(inputs), model(inputs), atol=1e-9), group.name
        cut(changed, group, 1)
        other = copy.deepcopy(changed)
        shake(other, group, 1)
        torch.testing.assert_close(other(inputs), changed(inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", ["maxmin", "groupsort4", "crelu", "fourier", "adalin"])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_pairs_and_doubled_features_belong_to_one_unit(net: str, activation: str) -> None:
    torch.manual_seed(0)
    model = build(net, classes=3, activation=activation, **NETWORKS[net]).double()
    inputs = torch.randn(3, *NETWORKS[net]["input_shape"], dtype=torch.float64)
    members = {"maxmin": 2, "groupsort4": 4}.get(activation, 1)
    for group in trace_units(model):
        assert group.members == members
        assert group.expansion == (2 if activation in ("crelu", "fourier") else 1)
        assert group.size == group.incoming[0].find(model).shape[0] // members
        changed = copy.deepcopy(model)
        cut(changed, group, 0)
        other = copy.deepcopy(changed)
        shake(other, group, 0)
        torch.testing.assert_close(other(inputs), changed(inputs), rtol=0, atol=1e-12)


def test_groups_of_the_benchmark_networks() -> None:
    found = summary(trace_units(build("cnn", classes=3, **NETWORKS["cnn"])))
    assert found["activations.2"] == (4, ("convs.2",), ("layers.0",))
    vit = summary(trace_units(build("vit", classes=3, **NETWORKS["vit"])))
    assert vit["blocks.1.activation"] == (64, ("blocks.1.expand",), ("blocks.1.contract",))
    assert vit["blocks.0.attention.value"] == (
        16,
        ("blocks.0.attention.value",),
        ("blocks.0.attention.output",),
    )
    gpt = trace_units(build("gpt", input_shape=(8,), classes=11, width=16, depth=1, heads=2))
    assert [group.kind for group in gpt] == ["value", "hidden"]


def test_channels_of_a_residual_stream_are_one_group() -> None:
    model = build("resnet18", classes=3, **NETWORKS["resnet18"])
    units = trace_units(model)
    assert units.left_out == {}
    stream = group_named(model, "blocks.1.activation2")
    assert stream.activations == ("activation", "blocks.0.activation2", "blocks.1.activation2")
    assert stream.producers == ("stem", "blocks.0.conv2", "blocks.1.conv2")
    assert stream.consumers == ("blocks.0.conv1", "blocks.1.conv1", "blocks.2.conv1", "blocks.2.shortcut")
    assert {slot.tensor for slot in stream.norms} == {"weight", "bias", "running_mean", "running_var"}
    inside = group_named(model, "blocks.3.activation1")
    assert (inside.producers, inside.consumers) == (("blocks.3.conv1",), ("blocks.3.conv2",))
    # All 17 convolutions but the first read units, and the head does.
    assert len({name for group in units for name in group.consumers}) == 16 + 3 + 1


def test_a_flattened_channel_owns_a_column_for_every_position() -> None:
    model = build("cnn", classes=3, **NETWORKS["cnn"])
    (slot,) = group_named(model, "activations.2").outgoing
    assert slot == Slot("layers.0", "weight", 1, 1, 9)
    weight = torch.arange(8 * 36.0).view(8, 36)
    assert torch.equal(slot.view(weight)[1].flatten(1), weight[:, 9:18])


class Functional(nn.Module):
    """Everything between layers written as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.mix = nn.Conv2d(4, 6, 3, padding=1)
        self.hidden = nn.Linear(24, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(images)), 2)
        x = F.dropout(F.gelu(self.mix(x)), 0.1, self.training)
        x = x.view(x.size(0), -1)
        return self.head(0.5 * torch.tanh(self.hidden(x)))


def test_functions_are_followed_as_modules_are() -> None:
    model = Functional()
    found = trace_units(model)
    assert summary(found) == {
        "conv": (4, ("conv",), ("mix",)),
        "mix": (6, ("mix",), ("hidden",)),
        "hidden": (5, ("hidden",), ("head",)),
    }
    assert found[1].outgoing[0].inner == 4
    assert {(probe.module, probe.side) for group in found for probe in group.probes} == {
        ("mix", "input"),
        ("hidden", "input"),
        ("head", "input"),
    }


class Shared(nn.Module):
    """One hidden layer, called twice; one nonlinearity for all."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.again = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        x = self.act(self.again(x))
        return self.head(self.act(self.again(x)))


def test_a_module_called_twice_ties_its_units_together() -> None:
    (group,) = trace_units(Shared())
    assert (group.name, group.producers, group.consumers) == ("act", ("first", "again"), ("again", "head"))
    assert all(probe.side == "input" for probe in group.probes)


class Gated(nn.Module):
    """A gated sublayer, a depthwise convolution, and a stream that starts at the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.norm = nn.LayerNorm(6)
        self.gate, self.up, self.down = nn.Linear(6, 9), nn.Linear(6, 9), nn.Linear(9, 6)
        self.head = nn.Linear(6, 7)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.embed(tokens)
        if mask is not None:
            x = x * mask
        h = self.norm(x)
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return self.head(x)


def test_gates_are_written_by_both_of_their_layers() -> None:
    (group,) = trace_units(Gated())
    assert (group.size, group.producers, group.consumers) == (9, ("gate", "up"), ("down",))


def test_depthwise_convolutions_read_with_rows() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )
    first, second = trace_units(model)
    assert first.outgoing == (Slot("2", "weight", 0, 1, 2),)
    assert (second.size, second.producers) == (8, ("2",))


def test_norms_behind_pools_and_torch_blocks() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ELU(), nn.AvgPool1d(2), nn.Flatten(), nn.BatchNorm1d(12),
        nn.Linear(12, 3),
    )  # fmt: skip
    (group,) = trace_units(model)
    assert {(slot.module, slot.inner) for slot in group.norms} == {("1", 1), ("5", 3)}
    assert not group.mixed
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    (inner,) = trace_units(nn.Sequential(nn.Linear(3, 8), layer, nn.Linear(8, 2)))
    assert (inner.producers, inner.consumers) == (("1.linear1",), ("1.linear2",))


class Tied(nn.Module):
    """Two layers with one weight, behind a third."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two, self.head = (nn.Linear(4, n) for n in (4, 4, 4, 2))
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.two(torch.tanh(self.one(torch.tanh(self.first(x)))))))


class Excited(nn.Module):
    """Channels that are scaled by a small network which reads them, in a block with a projected shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(4, 5, 1), nn.Conv2d(5, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.squeeze, self.excite = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.shortcut = nn.Sequential(nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6))
        self.relu, self.head = nn.Tanh(), nn.Linear(6 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x.view(-1, 4, 1, 1).expand(-1, -1, 2, 2)))
        y = self.relu(self.norm(self.conv(x)))
        y = y * torch.sigmoid(self.excite(torch.tanh(self.squeeze(y.mean((2, 3), keepdim=True)))))
        y += self.shortcut(x)
        return self.head(torch.flatten(self.relu(y), 1))


class Recurring(nn.Module):
    """One residual block, applied again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(3):
            x = x + F.gelu(self.body(x))
        return self.head(x)


class Encoder(nn.Sequential):
    """A block of torch's own."""

    def __init__(self) -> None:
        block = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        super().__init__(nn.Linear(4, 8), nn.Unflatten(1, (1, 8)), block, nn.Flatten(), nn.Linear(8, 2))


STRANGERS = {
    Tied: {"first": ("one", "two", "head")},
    Excited: {
        "stem": ("conv", "shortcut.0"),
        "conv": ("squeeze", "head"),
        "squeeze": ("excite",),
    },
    Recurring: {"first": ("body", "head")},
    Encoder: {"2.linear1": ("2.linear2",)},
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_the_same_in_networks_of_strangers(kind: type[nn.Module]) -> None:
    """Cut from all who read it, any unit may be made and scaled in any way."""
    torch.manual_seed(0)
    model = kind().double().eval()
    inputs = torch.randn(3, 4, dtype=torch.float64)
    units = trace_units(model)
    assert {group.producers[0]: group.consumers for group in units} == STRANGERS[kind]
    for group in units:
        for unit in range(group.size):
            changed = copy.deepcopy(model)
            shake(changed, group, unit)
            assert not torch.allclose(changed(inputs), model(inputs), atol=1e-9), group.name
            cut(changed, group, unit)
            other = copy.deepcopy(changed)
            shake(other, group, unit)
            for slot in group.norms:
                slot.view(slot.find(other).data)[unit] += 0.5
            torch.testing.assert_close(other(inputs), changed(inputs), rtol=0, atol=1e-12)


class Second(nn.Module):
    """A module that gets the inputs first and hidden units second."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.hidden, self.module, self.head = nn.Linear(4, 4), module, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.hidden(x))
        return self.head(h) + self.module(x, h)


@pytest.mark.parametrize(
    "module", [nn.Bilinear(4, 4, 2), nn.TransformerDecoderLayer(4, 2, 6), nn.CosineSimilarity()]
)
def test_units_that_a_module_gets_beside_its_first_input_are_left_out(module: nn.Module) -> None:
    units = trace_units(Second(module))
    assert units.left_out == {"hidden": f"units are not followed through {type(module).__name__} (module)"}


LEFT_OUT = {
    "its units are outputs of the network": nn.Sequential(nn.Linear(2, 3), nn.ReLU()),
    "units are not followed through Softmax": nn.Sequential(
        nn.Linear(2, 3), nn.ReLU(), nn.Softmax(-1), nn.Linear(3, 2)
    ),
    "2 is a grouped convolution": nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2)),
    "its units are inside of LSTM": nn.Sequential(nn.LSTM(2, 3)),
}


@pytest.mark.parametrize("reason", LEFT_OUT)
def test_what_cannot_be_followed_is_left_out_with_the_reason(reason: str) -> None:
    units = trace_units(LEFT_OUT[reason])
    assert not units
    (said,) = units.left_out.values()
    assert reason in said
    assert "left out" in str(units)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_traced_is_told_what_to_do() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.Sequential(Branching()), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(IsoplastError, match=r"Branching \(1.0\) cannot be traced: .*declare_units") as error:
        trace_units(model)
    assert "\n" not in str(error.value)
    group = UnitGroup.of(model, producer="0", consumer="3", activation="2")
    assert trace_units(declare_units(model, [group])) == [group]
    assert trace_units(copy.deepcopy(model)) == [group]


def test_declarations_are_checked() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(IsoplastError, match="unknown module '4'"):
        UnitGroup.of(model, producer="4", consumer="2")
    with pytest.raises(IsoplastError, match="0 makes 4 units but 2 reads 6"):
        UnitGroup.of(model, producer="0", consumer="2")
    with pytest.raises(IsoplastError, match="1 is ReLU"):
        UnitGroup.of(model, producer="1", consumer="2")
    with pytest.raises(IsoplastError, match="got no group"):
        declare_units(model, [])


@pytest.mark.parametrize("net", NETWORKS)
def test_what_is_declared_is_what_is_traced(net: str) -> None:
    """A declaration by hand of every group between two layers gives the traced group."""
    model = build(net, classes=3, activation="relu", **NETWORKS[net])
    simple = [
        g for g in trace_units(model) if len(g.producers) == len(g.consumers) == 1 and g.kind == "hidden"
    ]
    assert simple
    for group in simple:
        norm = group.norms[0].module if group.norms else None
        declared = UnitGroup.of(
            model,
            producer=group.producers[0],
            consumer=group.consumers[0],
            activation=group.activation,
            norm=norm,
        )
        assert declared == group


def test_tracing_leaves_no_trace() -> None:
    model = build("vit", classes=3, **NETWORKS["vit"])
    seen: list[Any] = []
    model.blocks[0].register_forward_hook(lambda *found: seen.append(found))  # type: ignore[union-attr, index]
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    units = trace_units(model)
    assert seen == []
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert pickle.loads(pickle.dumps(list(units))) == units
    model(torch.zeros(1, 2, 8, 8))
    assert len(seen) == 1


def test_the_head_is_the_one_so_named_or_the_last() -> None:
    assert head_name(build("vit", classes=3, **NETWORKS["vit"])) == "head"
    assert head_name(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))) == "2"
    assert head_name(nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 1, 1))) == "1"
    with pytest.raises(IsoplastError, match="name its output layer `head`"):
        head_name(nn.ReLU())


def test_sorting_and_concatenating_modules_must_act_along_the_units() -> None:
    pairs = nn.Sequential(nn.Conv2d(1, 4, 1), MaxMin(), nn.Conv2d(4, 2, 1))
    assert "another dimension" in trace_units(pairs).left_out["1"]
    doubled = nn.Sequential(nn.Conv2d(1, 4, 1), CReLU(1), nn.Conv2d(8, 2, 1))
    assert trace_units(doubled)[0].outgoing[0].parts == 2
