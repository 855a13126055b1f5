"""Repair: critical layers are put back onto isometries, biases that keep units dead are lifted."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import text_table
from isoplast.diagnostics._result import Result, format_number, wrapped
from isoplast.diagnostics.health._inspection import Inspection, batches, feeding, inspect
from isoplast.diagnostics.weights._spectra import WeightSpectra
from isoplast.isometry import edit_matrices_, matrix_views, polar_factor
from isoplast.model import (
    clean_name,
    decide,
    matrices_of_state,
    non_finite_names,
    outputs,
    preserve_state,
    reconstruct,
    refuse_sharded,
    unwrap,
)

Biases = Literal["barrier", "zero", "keep"]
_BIASES = ("barrier", "zero", "keep")

ADVICE = (
    "Build the optimizer anew: its moments belong to the old weights. Train on with AdamO or attach(...), "
    "or the network collapses again."
)


@dataclass(frozen=True)
class RepairedLayer:
    """What was changed in one layer.

    Attributes:
        moved: Frobenius distance between its old and new weight, 0 if only biases were changed.
        norm: Frobenius norm of its old weight.
        lifted: number of biases that were set to zero.
    """

    moved: float
    norm: float
    lifted: int


@dataclass(frozen=True)
class Repair(Result):
    r"""What a repair did.

    Attributes:
        layers: what changed, by layer.
        before, after: the inspections of the network.
        distance: :math:`\sqrt{\sum_l \|W_l' - W_l\|_F^2}`.
        function_change: :math:`\|f' - f\| / \|f\|` over the given inputs, NaN without.
        agreement: share of the inputs whose largest output stays the same one, NaN without.
        advice: what to do with the optimizer.
    """

    layers: Mapping[str, RepairedLayer]
    before: Inspection
    after: Inspection
    distance: float
    function_change: float
    agreement: float
    advice: str = ADVICE

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name; those of the inspections as "before/..." and "after/..."."""
        found = {
            "distance": self.distance,
            "function_change": self.function_change,
            "agreement": self.agreement,
            "lifted": float(sum(layer.lifted for layer in self.layers.values())),
        }
        for name, layer in self.layers.items():
            found |= {f"{name}/moved": layer.moved, f"{name}/lifted": float(layer.lifted)}
        found |= {f"before/{name}": value for name, value in self.before.as_dict().items()}
        return found | {f"after/{name}": value for name, value in self.after.as_dict().items()}

    def __str__(self) -> str:
        if not self.layers:
            return "nothing to repair: no layer is critical"
        lines = [_weights_table(self), *_activity_table(self)]
        if not math.isnan(self.function_change):
            lines.append(
                f"outputs changed by {self.function_change:.0%} of their norm; the largest one stays the "
                f"same on {self.agreement:.0%} of the inputs"
            )
        return wrapped("\n".join([*lines, self.advice]))


def _weights_table(repair: Repair) -> str:
    header = ("layer", "moved", "of norm", "max before", "after", "cond before", "after", "biases to 0")
    rows = []
    for name, layer in repair.layers.items():
        old, new = (_extremes(one.spectra, name) for one in (repair.before, repair.after))
        numbers = (layer.moved, layer.norm, old[0], new[0], old[1], new[1])
        shown = name if len(name) <= 16 else f"...{name[-13:]}"
        rows.append((shown, *map(format_number, numbers), str(layer.lifted)))
    return text_table(header, rows)


def _extremes(spectra: WeightSpectra, layer: str) -> tuple[float, float]:
    """The largest singular value and condition number of a layer that may hold several matrices."""
    found = [one for name, one in spectra.items() if name.partition("[")[0] == layer]
    largest = max((one.largest for one in found), default=math.nan)
    return largest, max((one.condition_number for one in found), default=math.nan)


def _activity_table(repair: Repair) -> list[str]:
    old, new = repair.before.activity, repair.after.activity
    if old is None or new is None:
        return []
    rows = [
        (
            name if len(name) <= 28 else f"...{name[-25:]}",
            *(
                f"{value:.0%}"
                for value in (old[name].dead, new[name].dead, old[name].dormant, new[name].dormant)
            ),
        )
        for name in old
        if name in new
    ]
    return [text_table(("units", "dead before", "after", "dormant before", "after"), rows)]


@torch.no_grad()
def repair_(
    model: nn.Module | Mapping[str, Any],
    inputs: Any = None,
    *,
    layers: str | Collection[str] = "critical",
    biases: Biases = "barrier",
) -> Repair:
    r"""Puts critical layers back onto the nearest isometry, in place, and lifts biases that keep units dead.

    .. math:: W \leftarrow U V^T \ \text{for} \ W = U \Sigma V^T, \qquad
              b_i \leftarrow 0 \ \text{where} \ b_i \le -\max_x \|h(x)\|

    It acts once, on a network that no longer learns; AdamO acts in every step. What the singular values of
    the repaired layers knew is lost: look at `function_change` and `agreement`, and test the network. A
    healthy network is left alone. The optimizer's state is the caller's: see `advice`.

    Args:
        model: any module, or a state dict, whose tensors are then changed in place.
        inputs: what the module takes; for a state dict (n, features) if it is a plain chain of linear layers.
            They show dead units. Without them the weights alone decide, and the barrier is taken as
            :math:`\sqrt{d}`, the norm of d inputs of unit variance.
        layers: "critical" for those that :func:`isoplast.diagnostics.inspect` finds so, "all", or names.
            Embeddings, normalisations, depthwise and parametrised weights are never touched, as in
            :func:`isoplast.param_groups`; in a state dict their names and shapes tell them.
        biases: "barrier" lifts biases below the barrier after the projection, in every layer that feeds an
            activation; "zero" sets all biases of the repaired layers to zero; "keep" leaves them.

    Returns:
        What changed, with the inspections before and after.

    Raises:
        IsoplastError: for a non-finite weight or bias, an unknown layer or option (nothing is changed then).

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
        >>> _ = model[0].weight.data.mul_(100)
        >>> repair = repair_(model, layers="all")
        >>> bool(torch.linalg.svdvals(model[0].weight).allclose(torch.ones(8)))
        True

    Reference:
        arXiv:2606.09762, sections 4.3 and 5; the projection of FIRE (Han et al. 2026) without its scale.
    """
    if biases not in _BIASES:
        raise unknown("treatment of biases", biases, _BIASES)
    if isinstance(model, nn.Module):
        refuse_sharded(unwrap(model))
    else:  # the same tensors, under the names of the network itself
        model = {clean_name(name): value for name, value in model.items()}
    editable = dict(_editable(model))
    before = inspect(model, inputs)
    bad = non_finite_names(unwrap(model).state_dict() if isinstance(model, nn.Module) else model)
    if bad:
        raise IsoplastError(f"{bad[0]} holds a non-finite value: restore the weights from before, then retry")
    chosen = _chosen(layers, before, editable)
    reference = _function(model, inputs) if inputs is not None else None
    changed: dict[str, RepairedLayer] = {}
    for name in chosen:
        changed[name] = _project(*editable[name])
    critical = bool(chosen) or not before.healthy
    projected = {name: editable[name] for name in chosen}
    for name, count in _lift(model, inputs, projected, biases).items() if critical else ():
        old = changed.get(name, RepairedLayer(0.0, float(editable[name][0].norm()), 0))
        changed[name] = RepairedLayer(old.moved, old.norm, count)
    after = inspect(model, inputs)
    change, agreement = _difference(reference, None if inputs is None else _function(model, inputs))
    distance = math.sqrt(sum(layer.moved**2 for layer in changed.values()))
    return Repair(changed, before, after, distance, change, agreement)


_Layout = dict[str, Any]


def _editable(model: nn.Module | Mapping[str, Any]) -> Iterator[tuple[str, tuple[Tensor, _Layout]]]:
    """By layer the weight that may be projected, and the layout of the matrices in it."""
    if isinstance(model, nn.Module):
        for one in decide(unwrap(model)):
            if one.isometric:
                name = clean_name(one.name).removesuffix(".weight")
                yield name, (one.parameter, one.layout)
        return
    for name, layout in {one.weight: one.layout for one in matrices_of_state(model)[0]}.items():
        weight = model.get(f"{name}.weight", model.get(name))
        if isinstance(weight, Tensor):  # else a weight that a parametrisation makes from others
            yield name, (weight, dict(layout))


def _chosen(layers: str | Collection[str], before: Inspection, editable: Collection[str]) -> list[str]:
    if layers == "all":
        return list(editable)
    if layers == "critical":
        return [name for name in editable if name in before.critical_layers]
    if isinstance(layers, str):
        raise IsoplastError(
            f"layers is {layers!r}: it must be 'critical', 'all' or a list of names of layers"
        )
    for name in layers:
        if name not in editable:
            raise unknown("layer", name, editable)
    return [name for name in editable if name in layers]


def _project(weight: Tensor, layout: _Layout) -> RepairedLayer:
    moved = 0.0

    def project_(view: Tensor) -> None:
        nonlocal moved
        factor = polar_factor(view)
        moved += float((factor - view).double().square().sum())
        view.copy_(factor)

    norm = float(weight.double().norm())
    edit_matrices_(weight.detach(), project_, **layout)
    return RepairedLayer(math.sqrt(moved), norm, 0)


def _lift(
    model: nn.Module | Mapping[str, Any],
    inputs: Any,
    chosen: Mapping[str, tuple[Tensor, _Layout]],
    biases: Biases,
) -> dict[str, int]:
    """Set biases of these layers, or of all that feed activations, to zero; returns how many by layer."""
    if biases == "keep":
        return {}
    state: Mapping[str, Any] = (
        {clean_name(name): parameter for name, parameter in unwrap(model).named_parameters()}
        if isinstance(model, nn.Module)
        else model
    )
    network = model if isinstance(model, nn.Module) else reconstruct(model)
    if biases == "zero" or inputs is None or network is None:
        masks = {
            name: _mask(*chosen[name], state[f"{name}.bias"], biases)
            for name in chosen
            if f"{name}.bias" in state
        }
    else:  # after the projection: it moved the inputs of the layers behind it
        masks = feeding(network, inputs).unreachable()
    for name, mask in masks.items():
        state[f"{name}.bias"].detach()[mask] = 0.0
    return {name: int(mask.sum()) for name, mask in masks.items() if bool(mask.any())}


def _mask(weight: Tensor, layout: _Layout, bias: Tensor, biases: Biases) -> Tensor:
    if biases == "zero":
        return bias != 0
    width = matrix_views(weight, **layout)[0].shape[-1]
    return bias.double() <= -math.sqrt(width)


def _function(model: nn.Module | Mapping[str, Any], inputs: Any) -> Tensor:
    network = model if isinstance(model, nn.Module) else reconstruct(model)
    assert network is not None  # the inspection has refused inputs otherwise
    with preserve_state(network) as lent, torch.no_grad():
        return torch.cat([outputs(lent, batch).double() for batch in batches(inputs)])


def _difference(old: Tensor | None, new: Tensor | None) -> tuple[float, float]:
    if old is None or new is None:
        return math.nan, math.nan
    change = float((new - old).norm() / old.norm())
    return change, float((new.argmax(-1) == old.argmax(-1)).double().mean())
