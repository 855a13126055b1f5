"""The numbers that limits are known for, and what lies beyond their limits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

from isoplast.diagnostics.activity._activity import LayerActivity
from isoplast.diagnostics.health._evidence import Evidence, kind_of
from isoplast.diagnostics.health._finding import RANKS
from isoplast.diagnostics.health._limits import Kind, Limit, judged

ENOUGH = 256  # inputs that the limits of units and features were measured with


@dataclasses.dataclass(frozen=True)
class Beyond:
    """A number beyond a limit: where, what it says, and whether it comes and goes at a change of task."""

    limit: Limit
    where: str
    what: str
    wavers: bool


def beyond_limits(evidence: Evidence) -> Iterator[Beyond]:
    """Every number that is beyond a limit of the network's kind."""
    kind = kind_of(evidence)
    if kind is None:
        return
    grown = {} if evidence.orthogonalised else growth(evidence.largest, evidence.initial or {})
    if grown:
        where, mean = max(grown, key=lambda name: grown[name]), sum(grown.values()) / len(grown)
        limit = judged("growth", kind, evidence.memorises, mean)
        if limit is not None:
            what = f"the largest singular values before the head are {mean:.1f} times the initial ones"
            yield Beyond(limit, where, what, wavers=False)
    units = evidence.activity or {}
    yield from _worst(units, evidence.start, "dormant units", kind, evidence, _dormant)
    yield from _worst(evidence.features, evidence.start_features, "feature rank", kind, evidence, _rank)


def growth(now: Mapping[str, float], then: Mapping[str, float]) -> dict[str, float]:
    """By layer before the head, its largest singular value over the initial one."""
    hidden = list(now)[:-1] or list(now)
    return {
        name: now[name] / then[name]
        for name in hidden
        if then.get(name, 0.0) > 0 and math.isfinite(now[name])
    }


def few_directions(evidence: Evidence) -> set[str]:
    """The layers whose features span fewer directions than a limit says."""
    kind = kind_of(evidence)
    known = evidence.features if kind is not None else {}
    found = set()
    for name, layer in known.items():
        limit = _limit(layer, evidence.start_features.get(name), "feature rank", kind, evidence, _rank)
        if limit is not None:
            found.add(name)
    return found


# Of a layer and of the same at the start: the number by itself, the number since then, and a sentence.
_Read = Callable[[LayerActivity, LayerActivity | None], tuple[float, float, str]]


def _dormant(layer: LayerActivity, start: LayerActivity | None) -> tuple[float, float, str]:
    since = math.nan if start is None else layer.dormant - start.dormant
    what = f"{layer.dormant:.0%} of {layer.units} units are dormant (a tenth of the mean activity or less)"
    return layer.dormant, since, what if start is None else f"{what}, {start.dormant:.0%} {{start}}"


def _rank(layer: LayerActivity, start: LayerActivity | None) -> tuple[float, float, str]:
    if not layer.rank_samples:
        return math.nan, math.nan, ""
    share = layer.feature_rank / min(layer.units, layer.rank_samples)
    since = layer.feature_rank / start.feature_rank if start is not None and start.feature_rank else math.nan
    what = f"the features of {layer.units} units span {layer.feature_rank:.0f} directions"
    return share, since, what if math.isnan(since) or start is None else (
        f"{what}, {start.feature_rank:.0f} {{start}}"
    )  # fmt: skip


def _worst(
    layers: Mapping[str, LayerActivity],
    starts: Mapping[str, LayerActivity],
    number: str,
    kind: Kind,
    evidence: Evidence,
    read: _Read,
) -> Iterator[Beyond]:
    """The worst layer beyond a limit."""
    found = []
    for name, layer in layers.items():
        start = starts.get(name)
        limit = _limit(layer, start, number, kind, evidence, read)
        if limit is not None:
            own, since, what = read(layer, start)
            value = since if evidence.start_name else own
            said = what.format(
                start=f"at {evidence.start_name}" if evidence.start_name else "in a fresh network"
            )
            found.append((RANKS[limit.severity], -limit.sign * value, Beyond(limit, name, said, wavers=True)))
    if found:
        yield min(found, key=lambda item: item[:2])[2]


def _limit(
    layer: LayerActivity,
    start: LayerActivity | None,
    number: str,
    kind: Kind | None,
    evidence: Evidence,
    read: _Read,
) -> Limit | None:
    """The limit that a layer is beyond.

    Where the start is known, what has changed since then decides, unless most units were dormant even then:
    somebody trains on with a network that is lost already. Else the number by itself does, and it must be
    unusual beside a freshly drawn network too: wide layers behind few inputs span few directions anyway.
    """
    if kind is None or not enough(layer):
        return None
    own, since, _ = read(layer, start)
    relative = judged(f"{number} since", kind, evidence.memorises, since)
    absolute = judged(number, kind, evidence.memorises, own)
    if evidence.start_name:
        lost_before = start is not None and number == "dormant units" and start.dormant >= own
        return relative or (absolute if lost_before else None)
    if absolute is None or relative is None:
        return None
    if RANKS[absolute.severity] >= RANKS[relative.severity]:
        return absolute
    return judged(number, kind, evidence.memorises, own, "warning")


def enough(layer: LayerActivity) -> bool:
    """Whether there are inputs enough for a claim: as many as limits were fitted with, and all units seen."""
    return layer.finite and layer.units > 1 and ENOUGH <= layer.inputs >= layer.inputs_needed
