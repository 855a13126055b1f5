"""Which layers are the outputs of a network, and that everything that asks gets the same answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isoplast import AdamO, param_groups
from isoplast._core.errors import IsoplastError
from isoplast._core.layer_kinds import heads
from isoplast.methods import HeadReset, head_name, head_names
from isoplast.nn import build, isometric_init_


def linear() -> nn.Linear:
    return nn.Linear(6, 6)


def net(**children: Any) -> nn.Module:
    return nn.ModuleDict(children)


def mlp(*, first: str = "") -> nn.Module:
    """A body whose output layer is registered first under a name, or last without one."""
    body = nn.Sequential(linear(), nn.ReLU(), linear())
    return net(**{first: linear()}, body=body) if first else nn.Sequential(*body, nn.ReLU(), linear())


class Mine(nn.Module):
    """Parts under names of one's own, in the order given."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


# network -> names of its output layers
NETWORKS: dict[str, tuple[nn.Module, list[str]]] = {
    "chain": (mlp(), ["4"]),
    "head before the body": (mlp(first="head"), ["head"]),
    "head before an auxiliary layer": (Mine(body=linear(), head=linear(), aux=linear()), ["head"]),
    "head beside an auxiliary head": (Mine(cls_head=linear(), aux_head=linear()), ["cls_head"]),
    "head with a norm": (Mine(head=nn.Sequential(nn.LayerNorm(6), linear()), body=linear()), ["head.1"]),
    "head with a hidden layer": (Mine(head=mlp(), body=linear()), ["head.4"]),
    "classifier first": (Mine(classifier=linear(), features=mlp()), ["classifier"]),
    "classifier behind a last convolution": (
        Mine(blocks=linear(), conv_head=nn.Conv2d(6, 6, 1), classifier=linear()),
        ["classifier"],
    ),
    "head behind features for it": (Mine(pre_logits=linear(), head=linear()), ["head"]),
    "fc first": (Mine(fc=linear(), layer1=linear()), ["fc"]),
    "out after a hidden fc": (Mine(out=linear(), fc=linear()), ["out"]),
    "numbered": (Mine(fc=linear(), fc2=linear(), fc3=linear()), ["fc3"]),
    "convolutional": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), ["2"]),
    "convolutional behind linear layers": (
        Mine(
            stem=nn.Conv2d(3, 4, 3), squeeze=nn.Sequential(linear(), linear()), last_conv=nn.Conv2d(4, 2, 1)
        ),
        ["last_conv"],
    ),
    "convolutional, by name": (Mine(head=nn.Conv1d(4, 2, 1), up=nn.Conv1d(4, 4, 1)), ["head"]),
    "transposed": (nn.Sequential(linear(), nn.ConvTranspose2d(3, 4, 3)), ["1"]),
    "actor and critic": (Mine(actor=linear(), critic=linear(), body=linear()), ["actor", "critic"]),
    "actor and critic without a trunk": (
        Mine(critic=mlp(), actor_mean=mlp()),
        ["critic.4", "actor_mean.4"],
    ),
    "policy_head and value_head": (
        Mine(policy_head=linear(), body=linear(), value_head=linear()),
        ["policy_head", "value_head"],
    ),
    "stable-baselines": (
        Mine(features_extractor=mlp(), mlp_extractor=mlp(), action_net=linear(), value_net=linear()),
        ["action_net", "value_net"],
    ),
    "pi and v": (Mine(pi=net(mu_net=mlp()), v=net(v_net=mlp())), ["pi.mu_net.4", "v.v_net.4"]),
    "head and value_head": (Mine(head=linear(), body=linear(), value_head=linear()), ["head", "value_head"]),
    "dueling": (
        Mine(value_stream=mlp(), trunk=linear(), advantage_stream=mlp()),
        ["value_stream.4", "advantage_stream.4"],
    ),
    "twin critics": (Mine(qf1=mlp(), qf2=mlp()), ["qf1.4", "qf2.4"]),
    "a head inside of an actor": (Mine(actor=mlp(first="head"), critic=mlp()), ["actor.head", "critic.4"]),
    "detection": (
        Mine(body=linear(), class_labels_classifier=linear(), bbox_predictor=mlp()),
        ["class_labels_classifier", "bbox_predictor.4"],
    ),
    "segmentation": (Mine(backbone=linear(), classifier=mlp(), aux_classifier=mlp()), ["classifier.4"]),
    "several tasks": (Mine(heads=nn.ModuleList([linear(), linear()]), body=linear()), ["heads.0", "heads.1"]),
    "mean and spread": (Mine(body=linear(), mu=linear(), log_std=linear()), ["mu", "log_std"]),
    "autoencoder": (Mine(encoder=linear(), fc_mu=linear(), fc_var=linear(), decoder=linear()), ["decoder"]),
    "attention is no agent": (Mine(q=linear(), k=linear(), v=linear(), o=linear()), ["o"]),
    "wrapped": (Mine(module=Mine(_orig_mod=mlp(first="head"))), ["module._orig_mod.head"]),
    "wrapped with a loss": (Mine(model=mlp(first="head"), loss=nn.CrossEntropyLoss()), ["model.head"]),
    "ours": (build("mlp", input_shape=(6,), classes=3, width=8), ["head"]),
}
all_networks = pytest.mark.parametrize(("network", "expected"), NETWORKS.values(), ids=NETWORKS)


@all_networks
def test_output_layers(network: nn.Module, expected: list[str]) -> None:
    found = heads(network)
    assert [head.layer_name for head in found] == expected
    assert all(network.get_submodule(head.layer_name) is head.layer for head in found)


@all_networks
def test_param_groups_frees_them(network: nn.Module, expected: list[str]) -> None:
    groups = param_groups(network, isometry=0.5, head=0.0)
    weights = [f"{name}.weight" for name in expected]
    assert [d.name for d in groups.decisions if d.role == "head"] == weights
    assert all(not d.isometric for d in groups.decisions if d.role == "head")
    strengths = {
        name: group["isometry"]
        for group in AdamO(param_groups(network, isometry=0.5, head=0.25)).param_groups
        for name in group["param_names"]
    }
    assert [name for name, strength in strengths.items() if strength == 0.25] == weights


@all_networks
def test_initialisation_gives_them_their_gain(network: nn.Module, expected: list[str]) -> None:
    isometric_init_(network, head_gain=0.25)
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
            largest = float(torch.linalg.svdvals(module.weight.detach().flatten(1))[0])
            assert largest == pytest.approx(0.25 if name in expected else 1.0, abs=1e-5), name


def test_methods_take_a_module_called_head_as_a_whole_and_of_others_the_layer() -> None:
    assert head_names(NETWORKS["head with a norm"][0]) == ["head"]
    assert head_names(NETWORKS["pi and v"][0]) == ["pi.mu_net.4", "v.v_net.4"]
    assert head_name(NETWORKS["head before an auxiliary layer"][0]) == "head"
    with pytest.raises(IsoplastError, match=r"several output layers \(actor, critic\): use head_names"):
        head_name(NETWORKS["actor and critic"][0])
    with pytest.raises(IsoplastError, match="has no linear layer"):
        head_names(nn.Sequential(nn.ReLU()))


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic, self.body = nn.Linear(8, 3), nn.Linear(8, 1), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x).relu()
        return self.actor(hidden), self.critic(hidden)


def test_a_reset_of_the_head_resets_both_heads_of_an_actor_critic() -> None:
    assert list(HeadReset().reset_names(ActorCritic())) == [
        "actor.weight", "actor.bias", "critic.weight", "critic.bias",
    ]  # fmt: skip


def test_one_unit_is_no_matrix_and_the_other_head_is_still_one() -> None:
    found = {d.name: (d.role, d.isometric) for d in param_groups(ActorCritic(), head=0.5).decisions}
    assert found["actor.weight"] == ("head", True)
    assert found["critic.weight"] == ("other", False)
