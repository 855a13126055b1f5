"""From numbers to findings: what is wrong with a network, where, and what to do about it.

The limits below come from 1022 task ends of recorded random-label runs on digits and CIFAR-10 (Adam, AdamW,
AdamO of all strengths; MLPs of width 128 and 512), 106 of them at chance, from networks of every kind in
`isoplast.nn` freshly initialised and trained on one task, and from two published speech models.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from isoplast.diagnostics._result import format_number

Severity = Literal["critical", "warning", "note"]
_ORDER = {"critical": 0, "warning": 1, "note": 2}

# Fresh networks have at most 1.7, networks trained on one task of real labels 3.9, of random labels 7.2; the
# networks at chance 4.2 to 14.7, half of them above 11.9. So this alone is a warning, never an illness.
LARGE = 5.0
# A matrix with independent entries has an effective rank of at least 0.8 of its side, trained ones 0.58, the
# networks at chance 0.74: below a quarter lie matrices that a regularizer or decay has emptied.
_LOW_RANK = 0.25
# Head gains of 0.01 are common (PPO); what passes a thousandth of its input is not meant.
_NEAR_ZERO = 1e-3
# What a layer with 40 % dead units says of the next task: of 107 networks that came out of it at chance 106
# had one, of the 143 below half 54, of the 438 between half and 0.9 eight, of the 287 above 0.9 28, all of
# them runs on CIFAR-10 on their way down. Trained on one task 2 to 16 % are dead.
_DEAD_ILL, _DEAD_WARNING = 0.4, 0.2
# In torch's default initialisation biases outweigh what arrives at deep layers: of 64 units after ten layers
# 41 to 58 % are dead and 42 to 56 % always on, in a fresh CNN up to 62 and 27 %. Such a layer is nearly
# linear, and trains. In networks that stopped learning at most 11 % are always on beside 37 to 100 % dead.
_ALWAYS_ON = 0.4  # of the dead share
# AdamO's networks that learn every task have up to 46 % dormant units, networks at chance 63 to 100 %.
_DORMANT = 0.6
# Without real inputs: the last hidden layer of networks at chance fires 0 to 5.4 % of its units on standard
# normal inputs, those that learn 16 to 95 %, but for some of width 512 with 3 to 5 %, whose largest singular
# value there stayed below 6.1. At chance it is 7.3 and more, or 85 % and more of the units never fire.
_FIRING, _STRETCHED, _NEVER = 0.06, 6.5, 0.85
# A ReLU layer of a healthy network lets 0 to 1 % of its units through unchanged on all inputs.
_LINEARISED = 0.9
_SATURATED = 0.5
# Shares of what a fresh twin removes (100 Adam steps, digits): 0.00 at chance; 0.61, 0.67 and 0.96 where new
# tasks end at 0.31 to 0.35; 1.4 to 2.8 for networks that learn them.
_PLASTICITY_ILL, _PLASTICITY_WARNING = 0.5, 0.8
# On 32 digits, centred logits: fresh 4e2 and 1.5e3 (torch's initialisation), AdamO's that learn 150 to 280,
# trained on real labels 2.4e4; networks that stopped learning 7e5, 8e6 and infinite.
_NTK_CONDITION = 1e5
# Median over the same inputs: 3 to 8 where they learn, 29 trained on real labels; 87 and infinite where not.
_JACOBIAN_CONDITION = 1e3

_REPAIR = "train on with AdamO(isometry=...) or attach(...); repair_ mends it at once"
_RESTORE = "restore a checkpoint from before and lower the learning rate"


@dataclass(frozen=True)
class Finding:
    """One thing that an inspection found.

    Attributes:
        severity: "critical": it keeps the network from learning; "warning": it may come to that;
            "note": worth knowing.
        where: the layer, or "network".
        what: one sentence with the number.
        remedy: one sentence.
    """

    severity: Severity
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.what}; {self.remedy}"


class WeightOf(Protocol):
    """What is asked of one layer of :func:`isoplast.diagnostics.weight_spectra`."""

    @property
    def finite(self) -> bool: ...
    @property
    def singular_values(self) -> Tensor: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def largest(self) -> float: ...
    @property
    def smallest(self) -> float: ...
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
    def dormant(self) -> float: ...
    @property
    def saturated(self) -> float: ...
    @property
    def linearised(self) -> float: ...


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, the worst first, each group in the order of the network."""
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])


def is_critical(findings: Iterable[Finding]) -> bool:
    """Whether any finding is an illness."""
    return any(finding.severity == "critical" for finding in findings)


def weight_findings(
    spectra: Mapping[str, WeightOf],
    *,
    normalised: bool = False,
    initial: Mapping[str, WeightOf] | None = None,
) -> list[Finding]:
    """What the weights alone show.

    A condition number is no reason by itself: torch's default initialisation gives square matrices a smallest
    singular value near zero (condition numbers up to 1e5), and healthy trained ones reach 1e4.

    Args:
        spectra: by layer, in the network's order; the last one counts as the head, whose norm is the scale
            of the logits.
        normalised: whether the network has normalisations: they undo the scale of the weights before them,
            so that a large singular value there is worth a note only.
        initial: the same of the network at its start.

    Returns:
        The findings in the network's order.

    Example:
        >>> from torch import nn
        >>> from isoplast.diagnostics import weight_spectra
        >>> weight_findings(weight_spectra(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))))
        []
    """
    found: list[Finding] = []
    for index, (name, layer) in enumerate(spectra.items()):
        scale_counts = not normalised and index < len(spectra) - 1
        start = None if initial is None else initial.get(name)
        found += _of_weight(name, layer, scale_counts, start)
    return found


def _of_weight(name: str, layer: WeightOf, scale_counts: bool, start: WeightOf | None) -> list[Finding]:
    if not layer.finite:
        return [Finding("critical", name, "the weight holds non-finite values", _RESTORE)]
    if layer.largest == 0:
        remedy = (
            "fine for a layer that starts at zero; else initialise it anew: no step of the penalty moves it"
        )
        return [Finding("note", name, "the weight is all zero", remedy)]
    if layer.largest < _NEAR_ZERO:
        what = f"the largest singular value is {format_number(layer.largest)}: hardly any signal gets through"
        return [Finding("warning", name, what, "lower the weight decay, or keep it isometric with AdamO")]
    found = []
    if layer.largest >= LARGE:
        growth = (
            ""
            if start is None or not start.largest
            else f", {format_number(layer.largest / start.largest)} times the initial one"
        )
        what = f"the largest singular value is {format_number(layer.largest)}{growth}"
        found.append(
            Finding("warning", name, what, _REPAIR)
            if scale_counts
            else Finding("note", name, what, "see whether it grows: compare it with earlier checkpoints")
        )
    found += _rank(name, layer)
    return found


def _rank(name: str, layer: WeightOf) -> list[Finding]:
    side = layer.singular_values.shape[-1]
    if side < 4:  # of two or three values a low rank says nothing
        return []
    if layer.effective_rank < _LOW_RANK * side:
        what = f"the effective rank is {format_number(layer.effective_rank)} of {side}"
        return [Finding("warning", name, what, _REPAIR)]
    return []


def broken_findings(names: Iterable[str]) -> list[Finding]:
    """Tensors that are no weight matrices, such as biases and running statistics, and hold no numbers.

    Args:
        names: of these tensors.
    """
    return [Finding("critical", name, "it holds non-finite values", _RESTORE) for name in names]


def activity_findings(layers: Mapping[str, ActivityOf]) -> list[Finding]:
    """What the units do on given inputs.

    Args:
        layers: by activation layer, in the network's order.

    Returns:
        The findings in the network's order, at most one for a layer.
    """
    found = (_of_activity(name, layer) for name, layer in layers.items())
    return [finding for finding in found if finding is not None]


def _of_activity(name: str, layer: ActivityOf) -> Finding | None:
    if not layer.finite:
        remedy = "look at the inputs, and at the weights before this layer"
        return Finding("critical", name, "the activations are not finite", remedy)
    dead = f"{layer.dead:.0%} of {layer.units} units are dead (zero on every input)"
    if hardly_tells_apart(layer):
        what = f"{dead} and {layer.linearised:.0%} always on: it hardly tells the inputs apart"
        remedy = "usual at torch's default initialisation; isometric_init_ or a normalisation avoids it"
        return Finding("note", name, what, remedy)
    if layer.dead >= _DEAD_ILL:
        end = "nothing the network is taught gets past this layer" if layer.dead == 1 else ""
        return Finding("critical", name, f"{dead}: {end}" if end else dead, _REPAIR)
    if layer.dead >= _DEAD_WARNING:
        return Finding("warning", name, dead, _REPAIR)
    if layer.saturated >= _SATURATED:
        what = f"{layer.saturated:.0%} of {layer.units} units are saturated"
        return Finding("warning", name, what, _REPAIR)
    if layer.linearised >= _LINEARISED:
        what = f"{layer.linearised:.0%} of {layer.units} units are always on: the layer is nearly linear"
        return Finding("warning", name, what, "centre its inputs, or let its biases decay (bias_decay)")
    if layer.dormant >= _DORMANT:
        what = (
            f"{layer.dormant:.0%} of {layer.units} units are dormant (a tenth of the mean activity or less)"
        )
        return Finding("warning", name, what, _REPAIR)
    return None


def silence_findings(
    layers: Mapping[str, tuple[float, float]], largest: Mapping[str, float]
) -> list[Finding]:
    """What a plain chain of linear layers does on standard normal inputs, with ReLU between them.

    Args:
        layers: by layer, the share of units that never fire, and the share that fires on one input.
        largest: the largest singular value by layer.

    Returns:
        The findings in the network's order, at most one for a layer.
    """
    found = []
    for name, (never, firing) in layers.items():
        what = (
            f"on standard normal inputs {never:.0%} of its units never fire, {firing:.1%} fire on one input"
        )
        if never >= _NEVER or (firing < _FIRING and largest[name] >= _STRETCHED):
            found.append(Finding("critical", name, what, f"give --inputs to be sure; {_REPAIR}"))
        elif firing < _FIRING or never >= _DEAD_ILL:
            found.append(Finding("warning", name, what, "give inputs to be sure"))
    return found


def hardly_tells_apart(layer: ActivityOf) -> bool:
    """Whether many units of a layer are dead and many always on: its units hardly depend on the input."""
    return layer.dead >= _DEAD_WARNING and layer.linearised > _ALWAYS_ON * layer.dead


def barrier_findings(
    below: Mapping[str, tuple[int, int, float]], constant: Collection[str] = ()
) -> list[Finding]:
    r"""Units that no turning of their weights can wake.

    .. math:: b_i \le -\max_x \|h(x)\|

    A row of length one then stays below zero on every input, and a dead unit's bias has no gradient.

    Args:
        below: by layer, the number of such biases, of all biases, and :math:`\max_x \|h(x)\|`.
        constant: layers whose units hardly depend on the input: as usual in fresh networks, so worth a note.

    Returns:
        One finding for each layer that has any.

    Reference:
        arXiv:2606.09762, section 4.3.
    """
    remedy = "repair_ lifts them to zero; bias_decay of AdamO does so in time"
    found = []
    for name, (count, total, largest) in below.items():
        what = (
            f"{count} of {total} biases lie below -{format_number(largest)}, where no isometry wakes a unit"
        )
        severity: Severity = "critical" if count >= _DEAD_ILL * total else "warning"
        if count:
            found.append(Finding("note" if name in constant else severity, name, what, remedy))
    return found


def network_findings(numbers: Mapping[str, float]) -> list[Finding]:
    """What the expensive instruments say; only the numbers that are there count.

    Args:
        numbers: any of "plasticity" and "plasticity_fresh" (:func:`isoplast.diagnostics.plasticity` of the
            network and of its fresh twin), "ntk_condition" (on centred logits) and "jacobian_condition".

    Returns:
        The findings about the network as a whole.

    Example:
        >>> [finding.severity for finding in network_findings({"plasticity": 0.1, "plasticity_fresh": 0.9})]
        ['critical']
    """
    found = []
    value, fresh = numbers.get("plasticity", math.nan), numbers.get("plasticity_fresh", math.nan)
    share = value / fresh if fresh > 0 else math.nan
    if share < _PLASTICITY_WARNING:
        what = f"it removes {value:.0%} of a fresh task's loss where a fresh network removes {fresh:.0%}"
        severity: Severity = "critical" if share < _PLASTICITY_ILL else "warning"
        found.append(Finding(severity, "network", what, _REPAIR))
    for name, title, limit in (
        ("ntk_condition", "the empirical NTK", _NTK_CONDITION),
        ("jacobian_condition", "the input-output Jacobian", _JACOBIAN_CONDITION),
    ):
        if numbers.get(name, 0.0) > limit:
            what = f"the condition number of {title} is {format_number(numbers[name])}"
            found.append(Finding("warning", "network", what, _REPAIR))
        elif math.isnan(numbers.get(name, 0.0)):
            what = f"{title} is not finite"
            found.append(Finding("critical", "network", what, "look for non-finite weights"))
    return found
