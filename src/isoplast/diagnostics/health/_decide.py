"""The one place that decides: from numbers to findings, for diagnose, inspect, Monitor and the report."""

from __future__ import annotations

import math
from collections.abc import Iterable

from isoplast.diagnostics.health._evidence import Evidence
from isoplast.diagnostics.health._finding import Finding, Severity, ordered
from isoplast.diagnostics.health._measured import ENOUGH, beyond_limits, few_directions
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
    for one in beyond_limits(evidence):
        layers = frozenset({evidence.producers.get(one.where, one.where).partition("[")[0]})
        advice = _advice(evidence, layers, one.limit.severity)
        found.append(Finding(one.limit.severity, one.where, one.what, advice, one.limit.rate, one.wavers))
    return found


def layers_to_repair(evidence: Evidence) -> frozenset[str]:
    """The layers with weights where a network that stopped learning is damaged.

    Those whose singular values are stretched (before the head, and without normalisations), whose rank is
    low, whose units are dead or span few directions, or whose biases keep units dead: what repair was
    measured with (docs/inspect-and-repair.md).
    """
    found = set(evidence.below)
    spectra = dict(evidence.spectra or {})
    head = next(reversed(spectra), "")
    for name, layer in spectra.items():
        stretched = layer.largest >= LARGE and name != head and not evidence.normalised
        if stretched or is_low_rank(layer):
            found.add(name)
    few = few_directions(evidence)
    for place, units in (evidence.activity or {}).items():
        if units.dead - units.rare >= DEAD or place in few:
            found.add(evidence.producers.get(place, place))
    return frozenset(name.partition("[")[0] for name in found) & evidence.repairable


def _advice(evidence: Evidence, layers: Iterable[str], severity: Severity = "critical") -> str:
    """What helps, where it was measured to."""
    if evidence.isometric:
        return "give its isometry more strength, or a shorter isometry_time (docs/adamo.md)"
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
    if layers and evidence.inputs < ENOUGH:
        what = f"{evidence.inputs} inputs are too few for a verdict on its features"
        found.append(Finding("note", "network", what, f"give {ENOUGH} or more"))
    return found
