"""The layers that produce the outputs of a network."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

from torch import nn

from isoplast._core.layer_kinds._modules import MAPS

_HEAD = re.compile(r"heads?(_\w+|\d+)?|(?!conv_)\w+_heads?(_?\d+)?", re.IGNORECASE)
_ONE_OF_SEVERAL = re.compile(
    r"(?!pre_)\w+_(classifier|predictor|logits)|(visual|vision|image|text|audio)_proj(ection)?", re.IGNORECASE
)
_AUXILIARY = re.compile(r"aux", re.IGNORECASE)
_PART = (
    r"mean|head|net|network|model|out|output|layer|stream|branch|linear|fc|logits|log_?std|fn|function|value"
)
_OF_AN_AGENT = re.compile(
    rf"(fc_|linear_)?(actor|policy|action|pi|critic|value|vf?|qf?|advantage|adv)(_?({_PART}))*(_?\d+)?",
    re.IGNORECASE,
)
_KEYS = re.compile(r"(to_)?(k|keys?)(_proj|_lin)?", re.IGNORECASE)
_OF_A_GAUSSIAN = tuple(
    re.compile(rf"(fc_?|linear_)?({words})(_?({_PART}))*", re.IGNORECASE)
    for words in ("mu|mean|loc", "(log_?)?(std|sigma|scale|var)")
)
_USUAL = (
    "classifier", "cls", "score", "logits", "readout", "output_layer", "out_layer", "last_layer",
    "final_layer", "fc_out", "embed_out", "proj_out", "output_projection", "output_proj", "output", "final",
    "last", "out", "fc", "linear",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Head:
    """An output layer.

    Attributes:
        name: qualified name of the module that is the head: one called `head` with all that is in it, else
            the layer itself.
        layer_name, layer: the linear layer or convolution whose outputs are the network's.
        reason: how it was found, in a few words.
    """

    name: str
    layer_name: str
    layer: nn.Module
    reason: str


def heads(model: nn.Module) -> list[Head]:
    """The output layers of a network, in its order: several for an actor-critic, none without any layer.

    A network says itself which they are: by modules called `head` (or `policy_head`, `head_2`, ...), by the
    usual names of an agent's parts (`actor` and `critic`, `pi` and `v`, `action_net` and `value_net`, ...:
    the last layer in each), by those of several outputs (`label_classifier` and `box_predictor`,
    `text_projection`, ...), or by a usual name of one (`classifier`, `output`, `fc`, ...). Auxiliary
    heads (`aux...`) are none. In a network that says nothing it is the last layer in the order of
    registration, be it linear or a convolution.

    Example:
        >>> net = nn.ModuleDict({"head": nn.Linear(8, 2), "body": nn.Linear(4, 8), "aux": nn.Linear(8, 3)})
        >>> [head.name for head in heads(net)]
        ['head']
        >>> [head.name for head in heads(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)))]
        ['2']
    """
    children = dict(_holders(model))
    found = _named(children)
    if found:
        return found
    if len(children) == 1 and not isinstance(model, MAPS):  # a wrapper
        return [head for name, child in children.items() for head in _inside(name, child)]
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, MAPS)]
    if not layers:
        return []
    name, layer = layers[-1]
    kind = "linear layer" if isinstance(layer, nn.Linear) else "convolution"
    return [Head(name, name, layer, f"last {kind}")]


def _holders(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children that hold a layer."""
    for name, child in module._modules.items():
        if child is not None and any(isinstance(inner, MAPS) for inner in child.modules()):
            yield name, child


def _named(children: Mapping[str, nn.Module]) -> list[Head]:
    """The heads that a module names among its children."""
    agents = [] if any(map(_KEYS.fullmatch, children)) else list(filter(_OF_AN_AGENT.fullmatch, children))
    main = [name for name in children if not _AUXILIARY.search(name)]
    called = list(filter(_HEAD.fullmatch, main))
    several = list(filter(_ONE_OF_SEVERAL.fullmatch, main))
    chosen = [name for name in children if name in (*called, *agents, *several)] or _gaussian(children)
    if not chosen:
        usual = (name for name in _USUAL if name in children and not _numbered(name, children))
        chosen = [name for name in [next(usual, "")] if name]
    return [
        head
        for name in chosen
        for head in (_called_head if name in called else _called_otherwise)(name, children[name])
    ]


def _called_head(name: str, child: nn.Module) -> list[Head]:
    """A module called head: it is one as a whole, unless it holds several."""
    inside = _called_otherwise(name, child)
    if isinstance(child, nn.ModuleList | nn.ModuleDict):
        parts = [_called_head(f"{name}.{own}", part) for own, part in _holders(child)]
        return [dataclasses.replace(head, reason=inside[0].reason) for part in parts for head in part]
    return [dataclasses.replace(inside[0], name=name)] if len(inside) == 1 else inside


def _called_otherwise(name: str, child: nn.Module) -> list[Head]:
    return [dataclasses.replace(head, reason=f"output layer, named {name}") for head in _inside(name, child)]


def _inside(name: str, child: nn.Module) -> list[Head]:
    """The heads of a part, named from outside."""
    return [
        dataclasses.replace(head, name=_join(name, head.name), layer_name=_join(name, head.layer_name))
        for head in heads(child)
    ]


def _gaussian(children: Mapping[str, nn.Module]) -> list[str]:
    """Mean and spread of a distribution, if nothing comes after them: in a VAE the decoder does."""
    pairs = [[name for name in children if words.fullmatch(name)] for words in _OF_A_GAUSSIAN]
    found = [name for name in children if any(name in names for names in pairs)]
    return found if all(pairs) and list(children)[-1] in found else []


def _numbered(name: str, children: Mapping[str, nn.Module]) -> bool:
    """Whether there are several of a name: fc, fc2."""
    return any(re.fullmatch(rf"{name}_?\d+", other) for other in children)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if name else prefix
