"""The one place that decides: from numbers to findings, for diagnose, inspect, Monitor and the report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from isoplast.diagnostics._result import format_number
from isoplast.diagnostics.activity._activity import Activity, LayerActivity
from isoplast.diagnostics.health._finding import Finding, Severity, ordered
from isoplast.diagnostics.health._limits import Kind, judged
from isoplast.diagnostics.health._notes import (
    DEAD,
    LARGE,
    activity_findings,
    barrier_findings,
    broken_findings,
    hardly_tells_apart,
    is_low_rank,
    silence_findings,
    weight_findings,
)
from isoplast.diagnostics.weights._spectra import WeightSpectra

_ENOUGH = 256  # inputs that the limits of features were measured with
_PIECEWISE = ("relu", "relu6", "leaky_relu", "prelu", "rrelu", "crelu", "maxmin", "groupsort", "hardtanh")
_WAVERING = ("dormant units", "feature rank")
_RECURRENT = ("rnn", "gru", "lstm")
_PAGE = "docs/alarms.md"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is known of a network; what was not measured is None or empty.

    Attributes:
        spectra: of its weights.
        largest, initial: largest singular values by layer in the network's order, now and at its start.
        assumed: the kind of network where its units were not seen.
        normalised: whether the network has normalisations, which undo the scale of the weights before them.
        broken: tensors other than weights that hold non-finite values.
        activity: on inputs; `places` by the names that findings give them.
        features: the same with ranks.
        fresh: what the units of the network at its start, or of a fresh one, do on them.
        inputs: how many there were.
        producers: by such a place, the layer with weights that feeds it.
        below: biases below the barrier, as `barrier_findings` takes them.
        silent: units on standard normal inputs, as `silence_findings` takes them.
        constant: whether the outputs are the same for all inputs.
        ntk_condition, jacobian_condition: condition numbers.
        probe: what the network and its fresh twin learned of fresh tasks.
        diverged: of how many tasks of the probe the network's loss was lost, where the twin's was not; and of
            how many tasks.
        repairable: layers that `repair_` would change.
        isometric: whether its optimizer keeps it isometric already.
    """

    spectra: WeightSpectra | None = None
    largest: Mapping[str, float] = dataclasses.field(default_factory=dict)
    initial: Mapping[str, float] | None = None
    assumed: Kind | None = None
    normalised: bool = False
    broken: tuple[str, ...] = ()
    activity: Mapping[str, LayerActivity] | None = None
    features: Mapping[str, LayerActivity] = dataclasses.field(default_factory=dict)
    fresh: Mapping[str, LayerActivity] = dataclasses.field(default_factory=dict)
    inputs: int = 0
    producers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    below: Mapping[str, tuple[int, int, float]] = dataclasses.field(default_factory=dict)
    silent: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    constant: bool = False
    ntk_condition: float | None = None
    jacobian_condition: float | None = None
    probe: tuple[float, float] | None = None
    diverged: tuple[int, int] = (0, 0)
    repairable: frozenset[str] = frozenset()
    isometric: bool = False

    def with_(self, **changes: Any) -> Evidence:
        """The same with other evidence added."""
        return dataclasses.replace(self, **changes)


def decide(evidence: Evidence) -> tuple[Finding, ...]:
    """What is wrong with a network, the worst first.

    Facts that keep a network from learning are critical: numbers that are lost, outputs that do not depend on
    inputs. Numbers with a measured error rate are critical or warnings beyond their limits (`LIMITS`) and say
    that rate. All other numbers are notes.

    Args:
        evidence: all that is known.
    """
    found = [*_facts(evidence), *_measured(evidence), *_notes(evidence)]
    return tuple(ordered(_without_repetition(found)))


def _without_repetition(findings: Iterable[Finding]) -> list[Finding]:
    """A layer's note is left out where it says what a finding with a verdict says of the same layer."""
    kept: list[Finding] = []
    for one in findings:
        said = {other.where for other in kept if other.rate and "units" in other.what}
        if not (one.severity == "note" and one.where in said and "units" in one.what):
            kept.append(one)
    return kept


def _facts(evidence: Evidence) -> list[Finding]:
    found = broken_findings(evidence.broken)
    if evidence.constant:
        what = f"the outputs are the same for all {evidence.inputs} inputs"
        found.append(Finding("critical", "network", what, _advice(evidence, evidence.repairable)))
    for title, value in (
        ("the empirical NTK", evidence.ntk_condition),
        ("the input-output Jacobian", evidence.jacobian_condition),
    ):
        if value is not None and math.isnan(value):
            found.append(
                Finding("critical", "network", f"{title} is not finite", "look for non-finite weights")
            )
    return found


def _measured(evidence: Evidence) -> list[Finding]:
    """Findings that have error rates."""
    found = []
    kind = kind_of(evidence)
    if kind is None:
        return []
    for number, where, value, what in _numbers(evidence):
        limit = judged(number, kind, value)
        if limit is None:
            continue
        layers = frozenset({evidence.producers.get(where, where).partition("[")[0]})
        advice = _advice(evidence, layers, limit.severity)
        found.append(Finding(limit.severity, where, what, advice, limit.rate, number in _WAVERING))
    return found


def kind_of(evidence: Evidence) -> Kind | None:
    """The kind of network, as its units tell; where none were seen what was assumed."""
    kinds = [layer.kind for layer in (evidence.activity or {}).values()]
    if not kinds:
        return evidence.assumed
    if any(kind.startswith(_RECURRENT) for kind in kinds):
        return "recurrent"
    if evidence.normalised:
        return "normalised"
    return "relu" if sum(kind in _PIECEWISE for kind in kinds) > len(kinds) / 2 else "smooth"


def _numbers(evidence: Evidence) -> list[tuple[str, str, float, str]]:
    """The numbers that limits are known for: name, where, value, and the sentence."""
    found = []
    grown = growth(evidence.largest, evidence.initial or {})
    if grown:
        where, mean = max(grown, key=lambda name: grown[name]), sum(grown.values()) / len(grown)
        what = f"the largest singular values before the head are {mean:.1f} times the initial ones"
        found.append(("growth", where, mean, what))
    more = more_dormant(evidence)
    if more:
        where = max(more, key=lambda name: more[name])
        layer, start = (evidence.activity or {})[where], evidence.fresh[where]
        what = (
            f"{layer.dormant:.0%} of {layer.units} units are dormant (a tenth of the mean activity or less), "
            f"{start.dormant:.0%} in a fresh network"
        )
        found.append(("dormant units", where, more[where], what))
    shares = feature_shares(evidence)
    if shares:
        where = min(shares, key=lambda name: shares[name])
        layer, start = evidence.features[where], evidence.fresh[where]
        what = (
            f"the features of {layer.units} units span {layer.feature_rank:.0f} directions, "
            f"{start.feature_rank:.0f} in a fresh network"
        )
        found.append(("feature rank", where, shares[where], what))
    if evidence.ntk_condition is not None:
        what = f"the condition number of the empirical NTK is {format_number(evidence.ntk_condition)}"
        found.append(("ntk condition", "network", evidence.ntk_condition, what))
    return found


def largest_values(spectra: WeightSpectra) -> dict[str, float]:
    """The largest singular values by layer."""
    return {name: layer.largest for name, layer in spectra.items()}


def growth(now: Mapping[str, float], then: Mapping[str, float]) -> dict[str, float]:
    """By layer before the head, its largest singular value over the initial one."""
    hidden = list(now)[:-1] or list(now)
    return {
        name: now[name] / then[name]
        for name in hidden
        if then.get(name, 0.0) > 0 and math.isfinite(now[name])
    }


def more_dormant(evidence: Evidence) -> dict[str, float]:
    """By layer, how much its share of dormant units exceeds that of a fresh network; where inputs suffice."""
    return {
        name: layer.dormant - evidence.fresh[name].dormant
        for name, layer in (evidence.activity or {}).items()
        if name in evidence.fresh and _enough(layer)
    }


def feature_shares(evidence: Evidence) -> dict[str, float]:
    """By layer, the rank of its features over that of a fresh network's; where inputs suffice."""
    return {
        name: layer.feature_rank / evidence.fresh[name].feature_rank
        for name, layer in evidence.features.items()
        if name in evidence.fresh and evidence.fresh[name].feature_rank > 0 and _enough(layer)
    }


def _enough(layer: LayerActivity) -> bool:
    """Whether there are inputs enough for a claim: as many as limits were fitted with, and all units seen."""
    return layer.finite and layer.units > 1 and _ENOUGH <= layer.inputs >= layer.inputs_needed


def layers_to_repair(evidence: Evidence) -> frozenset[str]:
    """The layers with weights where a network that stopped learning is damaged.

    Those whose singular values are stretched (before the head, and without normalisations), whose rank is
    low, whose units are dead or span few directions, or whose biases keep units dead: what repair was
    measured with (docs/inspect-and-repair.md).
    """
    found, kind = set(evidence.below), kind_of(evidence)
    spectra = dict(evidence.spectra or {})
    head = next(reversed(spectra), "")
    for name, layer in spectra.items():
        stretched = layer.largest >= LARGE and name != head and not evidence.normalised
        if stretched or is_low_rank(layer):
            found.add(name)
    few = feature_shares(evidence)
    for place, units in (evidence.activity or {}).items():
        shrunk = kind is not None and judged("feature rank", kind, few.get(place, math.nan)) is not None
        if units.dead - units.rare >= DEAD or shrunk:
            found.add(evidence.producers.get(place, place))
    return frozenset(name.partition("[")[0] for name in found) & evidence.repairable


def _advice(evidence: Evidence, layers: Iterable[str], severity: Severity = "critical") -> str:
    """What helps, where it was measured to."""
    if evidence.isometric:
        return f"give its isometry more strength (docs/adamo.md); {_PAGE} says what else was tried"
    said = "train on with AdamO or attach(...) (docs/adamo.md)"
    if severity == "critical" and evidence.repairable.intersection(layers):
        return f"{said}; at once: repair_, which forgets (docs/inspect-and-repair.md)"
    return said


def _notes(evidence: Evidence) -> list[Finding]:
    found = [] if evidence.spectra is None else weight_findings(evidence.spectra, initial=evidence.initial)
    layers = evidence.activity or {}
    constant = {
        evidence.producers.get(name, name) for name, layer in layers.items() if hardly_tells_apart(layer)
    }
    found += activity_findings(layers, evidence.inputs)
    found += barrier_findings(evidence.below, constant)
    found += silence_findings(evidence.silent)
    count, tasks = evidence.diverged
    if count:
        what = f"{count} of {tasks} copies diverged on fresh tasks, no fresh network did"
        found.append(Finding("note", "network", what, "lower the learning rate"))
    if layers and evidence.inputs < _ENOUGH:
        what = f"{evidence.inputs} inputs are too few for a verdict on its features"
        found.append(Finding("note", "network", what, f"give {_ENOUGH} or more"))
    return found


def activity_places(
    activity: Activity | None, names: Mapping[str, str] | None = None
) -> dict[str, LayerActivity]:
    """Activity by the names that findings give to the layers."""
    if activity is None:
        return {}
    return {(names or {}).get(name, name): layer for name, layer in activity.items()}
