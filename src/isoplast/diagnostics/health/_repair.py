"""Repair: critical layers are put back onto isometries, biases that keep units dead are lifted."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import text_table
from isoplast.diagnostics._result import Result, format_number, wrapped
from isoplast.diagnostics.health._editable import Layout, editable_weights
from isoplast.diagnostics.health._inspection import Inspection, batches, feeding, inspect
from isoplast.diagnostics.weights._spectra import WeightSpectra
from isoplast.isometry import edit_matrices_, matrix_views, polar_factor
from isoplast.model import (
    clean_name,
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
    "Build the optimizer anew: its moments belong to the old weights. Trained on as before, the network gets "
    "there again; AdamO or attach(...) keeps it able to learn."
)
# Of the outputs: beyond, what the network knows is lost, and it must have been said that it may be.
_AGREEMENT, _CHANGE = 0.9, 0.1
_SAME = 1e-6  # spread of outputs over inputs, relative to their size, that tells nothing


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
    forget: bool = False,
) -> Repair:
    r"""Puts critical layers back onto the nearest isometry, in place, and lifts biases that keep units dead.

    .. math:: W \leftarrow U V^T \ \text{for} \ W = U \Sigma V^T, \qquad
              b_i \leftarrow 0 \ \text{where} \ b_i \le -\max_x \|h(x)\|

    For a network that no longer learns; AdamO keeps one from getting there. What the singular values of the
    repaired layers knew is lost, so a repair that would change what the network computes is refused unless
    `forget` says that it may: it is tried, measured without labels and taken back. The optimizer's state is
    the caller's: see `advice`.

    Args:
        model: any module, or a state dict, whose tensors are then changed in place.
        inputs: what the module takes; for a state dict (n, features) if it is a plain chain of linear layers.
            They show dead units. Without them the weights alone decide, and the barrier is taken as
            :math:`\sqrt{d}`, the norm of d inputs of unit variance.
        layers: "critical" for those where :func:`isoplast.diagnostics.inspect` finds something critical,
            "all", or names. Embeddings, weights that are tied to one, normalisations, depthwise and
            parametrised weights are never touched, as in :func:`isoplast.param_groups`; in a state dict their
            names and shapes tell them.
        biases: "barrier" lifts biases below the barrier after the projection, in every layer that feeds an
            activation; "zero" sets all biases of the repaired layers to zero; "keep" leaves them.
        forget: whether what the network knows may be lost.

    Returns:
        What changed, with the inspections before and after.

    Raises:
        IsoplastError: for a non-finite weight or bias, an unknown layer or setting, and, without `forget`, if
            another output would be the largest for more than a tenth of the inputs, or the outputs would
            change by more than a tenth of their norm (a single output, or by the weights where there are no
            inputs). Nothing is changed then.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
        >>> _ = model[0].weight.data.mul_(100)
        >>> repair = repair_(model, layers="all", forget=True)
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
    editable = dict(editable_weights(model))
    before = inspect(model, inputs)
    state = dict(unwrap(model).state_dict()) if isinstance(model, nn.Module) else model
    bad = non_finite_names(state)
    if bad:
        raise IsoplastError(f"{bad[0]} holds a non-finite value: restore the weights from before, then retry")
    chosen = _chosen(layers, before, editable)
    if not chosen and not before.critical:
        return Repair({}, before, before, 0.0, *((0.0, 1.0) if inputs is not None else (math.nan, math.nan)))
    kept = {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}
    reference = _function(model, inputs) if inputs is not None else None
    changed = _change(model, inputs, chosen, biases, editable)
    change, agreement = _difference(reference, None if inputs is None else _function(model, inputs))
    distance = math.sqrt(sum(layer.moved**2 for layer in changed.values()))
    loss = "" if forget else _loss(reference, change, agreement, changed)
    if loss:
        for name, value in kept.items():
            state[name].copy_(value)
        raise IsoplastError(loss)
    return Repair(changed, before, inspect(model, inputs), distance, change, agreement)


def _change(
    model: nn.Module | Mapping[str, Any],
    inputs: Any,
    chosen: Collection[str],
    biases: Biases,
    editable: Mapping[str, tuple[Tensor, Layout]],
) -> dict[str, RepairedLayer]:
    """Project and lift; what changed by layer."""
    changed = {name: _project(*editable[name]) for name in chosen}
    projected = {name: editable[name] for name in chosen}
    for name, count in _lift(model, inputs, projected, biases).items():
        old = changed.get(name, RepairedLayer(0.0, float(editable[name][0].norm()), 0))
        changed[name] = RepairedLayer(old.moved, old.norm, count)
    return changed


def _loss(
    reference: Tensor | None, change: float, agreement: float, changed: Mapping[str, RepairedLayer]
) -> str:
    """What would be lost, in one line; nothing where the outputs told nothing, or stay."""
    if reference is None:
        moved = max((layer.moved / layer.norm for layer in changed.values() if layer.norm), default=0.0)
        if moved <= _CHANGE:
            return ""
        said = f"weights by up to {moved:.0%} of their norm (inputs would show what that does to the outputs)"
    else:
        flat = reference.flatten(1)
        told = float(flat.std(0, unbiased=False).max()) > _SAME * float(flat.abs().max())
        single = reference.shape[-1] == 1
        if not told or (change <= _CHANGE if single else agreement >= _AGREEMENT):
            return ""
        said = f"the outputs by {change:.0%} of their norm"
        if not single:
            said += f", and keep the largest one on {agreement:.0%} of the inputs"
    return (
        f"repair would change {said}: what the network knows would be lost. Say forget=True (--forget) if "
        "learning on matters more; training on with AdamO keeps it"
    )


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


def _project(weight: Tensor, layout: Layout) -> RepairedLayer:
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
    chosen: Mapping[str, tuple[Tensor, Layout]],
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


def _mask(weight: Tensor, layout: Layout, bias: Tensor, biases: Biases) -> Tensor:
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
