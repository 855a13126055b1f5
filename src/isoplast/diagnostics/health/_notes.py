"""Numbers without a verdict: networks that go on learning show them as well, each as often as others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from torch import Tensor

from isoplast.diagnostics._result import format_number
from isoplast.diagnostics.health._finding import Finding

_RESTORE = "restore a checkpoint from before and lower the learning rate"
_COMPARE = "no verdict by itself: see whether it grows, in earlier checkpoints or with initial="
# The largest singular value of fresh networks is at most 1.7, of those trained on true labels 3 to 9.
LARGE = 5.0
# A matrix with independent entries has an effective rank of at least 0.8 of its side.
_LOW_RANK = 0.25
# Head gains of 0.01 are common (PPO); what passes a thousandth of its input is not meant.
_NEAR_ZERO = 1e-3
DEAD, HALF = 0.2, 0.5
_SATURATED, _LINEARISED, _DORMANT = 0.5, 0.9, 0.6
# In torch's default initialisation biases outweigh what arrives at deep layers: of 64 units after ten layers
# 41 to 58 % are dead and 42 to 56 % always on.
_ALWAYS_ON = 0.4  # of the dead share
# Of standard normal inputs: the last hidden layers of networks at chance fire 0 to 5 % of their units.
_FIRING, _NEVER = 0.06, 0.85


class WeightOf(Protocol):
    """What is asked of one layer of :func:`isoplast.diagnostics.weight_spectra`."""

    @property
    def finite(self) -> bool: ...
    @property
    def singular_values(self) -> Tensor: ...
    @property
    def largest(self) -> float: ...
    @property
    def effective_rank(self) -> float: ...


class ActivityOf(Protocol):
    """What is asked of one layer of :func:`isoplast.diagnostics.activity`."""

    @property
    def finite(self) -> bool: ...
    @property
    def units(self) -> int: ...
    @property
    def dead(self) -> float: ...
    @property
    def rare(self) -> float: ...
    @property
    def inputs_needed(self) -> int: ...
    @property
    def dormant(self) -> float: ...
    @property
    def saturated(self) -> float: ...
    @property
    def linearised(self) -> float: ...


def weight_findings(
    spectra: Mapping[str, WeightOf], *, initial: Mapping[str, float] | None = None
) -> list[Finding]:
    """What the weights alone show: lost numbers, which are critical, and else numbers without a verdict.

    A condition number is none of them: torch's default initialisation gives square matrices a smallest
    singular value near zero, and trained networks reach 1e4.

    Args:
        spectra: by layer, in the network's order.
        initial: the largest singular values of the network at its start, by layer.

    Example:
        >>> from torch import nn
        >>> from isoplast.diagnostics import weight_spectra
        >>> weight_findings(weight_spectra(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))))
        []
    """
    found: list[Finding] = []
    for name, layer in spectra.items():
        found += _of_weight(name, layer, (initial or {}).get(name, 0.0))
    return found


def _of_weight(name: str, layer: WeightOf, start: float) -> list[Finding]:
    if not layer.finite:
        return [Finding("critical", name, "the weight holds non-finite values", _RESTORE)]
    if layer.largest == 0:
        advice = (
            "fine for a layer that starts at zero; else initialise it anew: no step of the penalty moves it"
        )
        return [Finding("note", name, "the weight is all zero", advice)]
    if layer.largest < _NEAR_ZERO:
        what = f"the largest singular value is {format_number(layer.largest)}: hardly any signal gets through"
        return [Finding("note", name, what, "lower the weight decay, unless the layer is meant to be off")]
    found = []
    if layer.largest >= LARGE:
        growth = f", {format_number(layer.largest / start)} times the initial one" if start else ""
        what = f"the largest singular value is {format_number(layer.largest)}{growth}"
        found.append(Finding("note", name, what, _COMPARE))
    if is_low_rank(layer):
        side = layer.singular_values.shape[-1]
        what = f"the effective rank is {format_number(layer.effective_rank)} of {side}"
        found.append(Finding("note", name, what, _COMPARE))
    return found


def is_low_rank(layer: WeightOf) -> bool:
    """Whether the effective rank is below a quarter of the side; of two or three values it says nothing."""
    side = layer.singular_values.shape[-1]
    return side >= 4 and layer.effective_rank < _LOW_RANK * side


def broken_findings(names: Iterable[str]) -> list[Finding]:
    """Tensors that are no weight matrices, such as biases and running statistics, and hold no numbers."""
    return [Finding("critical", name, "it holds non-finite values", _RESTORE) for name in names]


def activity_findings(layers: Mapping[str, ActivityOf], inputs: int) -> list[Finding]:
    """What the units do on given inputs, by layer: non-finite ones are critical, the rest has no verdict.

    Args:
        layers: by activation layer, in the network's order.
        inputs: how many there were.
    """
    found = (_of_activity(name, layer, inputs) for name, layer in layers.items())
    return [finding for finding in found if finding is not None]


def _of_activity(name: str, layer: ActivityOf, inputs: int) -> Finding | None:
    if not layer.finite:
        advice = "look at the inputs, and at the weights before this layer"
        return Finding("critical", name, "the activations are not finite", advice)
    of = f"of {layer.units} units"
    if layer.dead >= DEAD and layer.rare > layer.dead / 2:
        what = f"{layer.dead:.0%} {of} are zero on all {inputs} inputs, but most of them fire rarely"
        return Finding("note", name, what, f"give {layer.inputs_needed} inputs to tell which are dead")
    if hardly_tells_apart(layer):
        what = (
            f"{layer.dead:.0%} {of} are dead and {layer.linearised:.0%} always on: "
            "the layer hardly tells the inputs apart"
        )
        advice = "usual at torch's default initialisation; isometric_init_ or a normalisation avoids it"
        return Finding("note", name, what, advice)
    if layer.dead >= DEAD:
        return Finding("note", name, f"{layer.dead:.0%} {of} are dead (zero on every input)", _COMPARE)
    if layer.saturated >= _SATURATED:
        return Finding("note", name, f"{layer.saturated:.0%} {of} are saturated", _COMPARE)
    if layer.linearised >= _LINEARISED:
        what = f"{layer.linearised:.0%} {of} are always on: the layer is nearly linear"
        return Finding("note", name, what, "centre its inputs, or let its biases decay (bias_decay)")
    if layer.dormant >= _DORMANT:
        what = f"{layer.dormant:.0%} {of} are dormant (a tenth of the mean activity or less)"
        return Finding("note", name, what, _COMPARE)
    return None


def hardly_tells_apart(layer: ActivityOf) -> bool:
    """Whether many units of a layer are dead and many always on: its units hardly depend on the input."""
    return layer.dead >= DEAD and layer.linearised > _ALWAYS_ON * layer.dead


def silence_findings(layers: Mapping[str, tuple[float, float]]) -> list[Finding]:
    """What a plain chain of linear layers does on standard normal inputs, with ReLU between them.

    Args:
        layers: by layer, the share of units that never fire, and the share that fires on one input.
    """
    return [
        Finding(
            "note",
            name,
            f"on standard normal inputs {never:.0%} of its units never fire, {firing:.1%} fire on one input",
            "give inputs to be sure",
        )
        for name, (never, firing) in layers.items()
        if firing < _FIRING or never >= _NEVER
    ]


def barrier_findings(
    below: Mapping[str, tuple[int, int, float]], constant: Collection[str] = ()
) -> list[Finding]:
    r"""Units that no turning of their weights can wake.

    .. math:: b_i \le -\max_x \|h(x)\|

    A row of length one then stays below zero on every input, and a dead unit's bias has no gradient.

    Args:
        below: by layer, the number of such biases, of all biases, and :math:`\max_x \|h(x)\|`.
        constant: layers whose units hardly depend on the input, as usual in fresh networks: left out.

    Reference:
        arXiv:2606.09762, section 4.3.
    """
    return [
        Finding(
            "note",
            name,
            f"{count} of {total} biases lie below -{format_number(largest)}, where no isometry wakes a unit",
            "bias_decay of AdamO lifts them in time",
        )
        for name, (count, total, largest) in below.items()
        if count and name not in constant
    ]
