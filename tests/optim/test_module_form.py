"""AdamO(model) and attach(optimizer, model=model): the roles come from the layers, nobody reads a manual."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isoplast import AdamO, attach, param_groups
from isoplast._core.errors import IsoplastError
from isoplast.isometry import flow_step, isometry_step
from isoplast.model import copy_optimizer
from isoplast.nn import build


class Mixed(nn.Module):
    """Every role: embedding, tied weight, norm, depthwise and full convolution, fused projection, head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.norm = nn.LayerNorm((3, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.depthwise = nn.Conv1d(8, 8, 3, groups=8, padding=1)
        self.mix = nn.Conv1d(8, 8, 3, padding=1)
        self.readout = nn.Linear(8, 20, bias=False)
        self.readout.weight = self.embed.weight
        self.head = nn.Linear(8, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.embed(tokens))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.mix(self.depthwise(x.mT)).mT
        return self.head(x + self.embed(self.readout(x).argmax(-1)))


KEPT = {"attention.in_proj_weight": 3, "attention.out_proj.weight": 1, "mix.weight": 1, "head.weight": 1}


def mixed() -> Mixed:
    torch.manual_seed(0)
    return Mixed()


def backward(model: nn.Module, step: int) -> None:
    source = torch.Generator().manual_seed(step)
    model.zero_grad()
    model(torch.randint(20, (4, 3), generator=source)).square().mean().backward()


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    "network", [mixed, lambda: build("vit", input_shape=(3, 8, 8), classes=5, width=16, depth=1)]
)
def test_a_module_means_its_param_groups(network):
    torch.manual_seed(0)
    ours = network()
    theirs = copy.deepcopy(ours)
    short, long = AdamO(ours, lr=1e-2, fused=True), AdamO(param_groups(theirs), lr=1e-2, fused=True)
    assert [g["param_names"] for g in short.param_groups] == [g["param_names"] for g in long.param_groups]
    assert str(short.report().table()) == str(long.report().table())
    for optimizer, model in ((short, ours), (long, theirs)):
        for p in model.parameters():
            p.grad = torch.full_like(p, 0.1)
        optimizer.step()
    assert same_bits(ours, theirs)


def test_what_a_module_keeps():
    model = mixed()
    report = AdamO(model).report()
    assert {k.name: k.matrices for k in report.kept} == KEPT
    assert report.parameters == sum(p.numel() for p in model.parameters())
    # Bare parameters are taken by shape: also the embedding, both of the norm, and the depthwise kernel.
    assert len(AdamO(model.parameters()).report().kept) == len(KEPT) + 4


def test_modules_that_can_be_iterated_are_modules():
    """nn.Sequential and nn.ModuleList yield layers, which torch would take for parameters."""
    layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
    for model in (nn.Sequential(*layers), nn.ModuleList(layers), nn.ModuleDict({"a": layers[0]})):
        assert AdamO(model).report().matrices == len(model)


@pytest.mark.parametrize("make", [AdamO, lambda m: attach(torch.optim.SGD(m.parameters(), lr=0.1), model=m)])
def test_a_module_without_a_matrix_is_refused_with_its_reasons(make):
    model = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4))
    with pytest.raises(ValueError, match=r"0\.weight: a table of vectors.*isometry=0") as caught:
        make(model)
    assert "\n" not in str(caught.value)
    AdamO(model, isometry=0)
    with pytest.raises(IsoplastError, match="holds no matrix"):
        AdamO(param_groups(nn.Linear(4, 4), exclude=["*"]))


def test_lazy_layers_are_refused_with_the_way_out():
    with pytest.raises(IsoplastError, match="run one batch"):
        AdamO(nn.LazyLinear(4))


def test_frozen_matrices():
    """They never move: they are not counted, and isometry of frozen matrices alone is refused."""
    body = nn.Linear(16, 32).requires_grad_(False)
    model = nn.Sequential(body, nn.ReLU(), nn.Linear(32, 4))
    assert AdamO(model).report().parameters_kept == 128
    assert AdamO(model.parameters()).report().parameters_kept == 128
    model[2].weight.requires_grad_(False)
    for make in (
        lambda: AdamO(model),
        lambda: AdamO(model.parameters()),
        lambda: attach(torch.optim.SGD(model.parameters(), lr=0.1)),
    ):
        with pytest.raises(ValueError, match="every matrix is frozen"):
            make()


def test_the_signature_shows_the_number():
    for function in (AdamO, attach):
        assert inspect.signature(function).parameters["isometry"].default == 0.01
        assert "isometry: 'float | None' = 0.01" in str(inspect.signature(function))


@pytest.mark.parametrize("given", [1e-2, float("0.01"), 0])
def test_a_strength_that_equals_the_default_is_still_given(given):
    """Told from the default by its kind: equal numbers may be one object, or not."""
    with pytest.raises(ValueError, match="exclude each other"):
        AdamO(nn.Linear(4, 4), isometry=given, isometry_time=100)
    with pytest.raises(ValueError, match="exclude each other"):
        attach(torch.optim.SGD(nn.Linear(4, 4).parameters(), lr=0.1), given, isometry_time=100)
    assert (
        AdamO(nn.Linear(4, 4), lr=1e-2, isometry=None, isometry_time=125).param_groups[0]["isometry"] == 0.1
    )


def test_nothing_of_the_sentinel_is_kept():
    optimizer = AdamO(nn.Linear(4, 4))
    assert type(optimizer.defaults["isometry"]) is float
    assert type(optimizer.param_groups[0]["isometry"]) is float
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    torch.load(file, weights_only=True)
    assert "isometry: 0.01\n" in repr(pickle.loads(pickle.dumps(optimizer)))


@pytest.mark.parametrize("every", [1, "auto"])
def test_attach_with_a_model_moves_what_adamo_of_the_model_moves(every):
    """One plain group of a base optimizer, roles from the module: the same bits as three groups."""
    ours, theirs = mixed(), mixed()
    adamw = torch.optim.AdamW(ours.parameters(), lr=0.05, weight_decay=0.0)
    groups = len(adamw.param_groups)
    attachment = attach(adamw, 0.1, model=ours, every=every)
    adamo = AdamO(theirs, lr=0.05, isometry=0.1, isometry_every=every)
    assert len(adamw.param_groups) == groups
    assert attachment.report().parameters_kept == adamo.report().parameters_kept
    assert attachment.report().matrices == adamo.report().matrices
    for step in range(12):
        for model, optimizer in ((ours, adamw), (theirs, adamo)):
            backward(model, step)
            optimizer.step()
    if every == 1:
        assert same_bits(ours, theirs)
    else:  # turns are spread over a group, and here the groups are others
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=0.2)


def test_attach_with_a_model_by_hand():
    """Fused rows by themselves; the embedding, the norm and the depthwise kernel not at all."""
    model = mixed().double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(optimizer, 0.1, model=model, every=1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        old = before[name]
        expected = old
        if name in KEPT:
            expected = isometry_step(old.reshape(KEPT[name], -1, old[0].numel()), 0.01).view_as(old)
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-14)


def test_attach_with_a_model_is_saved_restored_and_removed():
    model = mixed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(optimizer.state_dict())
    attachment = attach(optimizer, 0.1, model=model, every=3)
    for step in range(4):
        backward(model, step)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = copy.deepcopy(model)
    other = torch.optim.SGD(twin.parameters(), lr=0.1)
    restored = attach(other, 0.7, model=twin)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert restored.report().table() == attachment.report().table()
    for step in range(4, 9):
        for m, o in ((model, optimizer), (twin, other)):
            backward(m, step)
            o.step()
    assert same_bits(model, twin)
    attachment.remove()
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]


def test_bias_decay_of_a_group_spares_the_gains_of_norms():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    nn.init.ones_(model[0].bias)
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "bias_decay": 0.5}], lr=0.1)
    attach(optimizer, model=model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(model[0].bias.detach(), torch.full((4,), 0.95))
    assert torch.equal(model[1].weight.detach(), torch.ones(4))


def test_matrices_that_the_model_does_not_hold_are_refused():
    actor, critic = nn.Linear(4, 4), nn.Linear(4, 3)
    params = [*actor.parameters(), *critic.parameters(), nn.Parameter(torch.zeros(()))]
    optimizer = torch.optim.SGD(params, lr=0.1)
    with pytest.raises(ValueError, match=r"shape \(3, 4\) that is not in the model.*ModuleList"):
        attach(optimizer, model=actor)
    assert "isometry" not in optimizer.param_groups[0]
    assert attach(optimizer, model=nn.ModuleList([actor, critic])).report().matrices == 2
    optimizer.add_param_group({"params": [nn.Parameter(torch.eye(3))]})
    with pytest.raises(ValueError, match="that is not in the model"):
        optimizer.step()


def test_only_modules_are_taken_for_a_model():
    with pytest.raises(TypeError, match="model= takes the torch module that is trained, not list"):
        attach(torch.optim.SGD(nn.Linear(4, 4).parameters(), lr=0.1), model=[nn.Linear(4, 4)])  # type: ignore[arg-type]


@pytest.mark.parametrize("keep", [True, False])
def test_copies_keep_the_roles(keep):
    model = mixed()
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(optimizer, 0.1, model=model)
    backward(model, 0)
    optimizer.step()
    twin = copy.deepcopy(model)
    new = dict(zip(model.parameters(), twin.parameters(), strict=True))
    copied: Any = copy_optimizer(optimizer, new, keep=keep)
    assert copied._isoplast_attachment.report().table() == optimizer._isoplast_attachment.report().table()


def test_one_turn_of_a_module_by_hand():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4, bias=False)).double()
    before = model[1].weight.detach().clone()
    optimizer = AdamO(model, lr=1e-2, isometry=1e-1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(model[1].weight.detach(), flow_step(before, 1e-3), rtol=0, atol=1e-14)
