"""What is known of a network, from whatever was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from isoplast.diagnostics.activity._activity import Activity, LayerActivity
from isoplast.diagnostics.health._limits import Kind
from isoplast.diagnostics.weights._spectra import WeightSpectra

# Networks of the calibration that fit true labels have 0.01 (digits), 0.16 (MNIST) and 0.44 (regression),
# those that fit random labels 0.5 to 1; on CIFAR-10, whose neighbours are of other classes, 0.8 and more.
ROUGH = 0.5
_PIECEWISE = ("relu", "relu6", "leaky_relu", "prelu", "rrelu", "crelu", "maxmin", "groupsort", "hardtanh")
_RECURRENT = ("rnn", "gru", "lstm")


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
        start, start_features: the same of the network at its start, or of a freshly drawn one.
        start_name: what that start is called, "the start" or "the first look"; empty for a freshly drawn one.
        inputs: how many there were.
        roughness: of the outputs, see :func:`isoplast.diagnostics.health._roughness.roughness`; None where
            that says nothing.
        producers: by such a place, the layer with weights that feeds it.
        below: biases below the barrier, as `barrier_findings` takes them.
        silent: units on standard normal inputs, as `silence_findings` takes them.
        constant: whether the outputs are the same for all inputs.
        ntk_condition, jacobian_condition: condition numbers.
        diverged: of how many tasks of the probe the network's loss was lost, where the twin's was not; and of
            how many tasks.
        repairable: layers that `repair_` would change.
        isometric: whether its optimizer keeps it isometric already.
        orthogonalised: whether its optimizer orthogonalises its steps, so that growth tells nothing.
    """

    spectra: WeightSpectra | None = None
    largest: Mapping[str, float] = dataclasses.field(default_factory=dict)
    initial: Mapping[str, float] | None = None
    assumed: Kind | None = None
    normalised: bool = False
    broken: tuple[str, ...] = ()
    activity: Mapping[str, LayerActivity] | None = None
    features: Mapping[str, LayerActivity] = dataclasses.field(default_factory=dict)
    start: Mapping[str, LayerActivity] = dataclasses.field(default_factory=dict)
    start_features: Mapping[str, LayerActivity] = dataclasses.field(default_factory=dict)
    start_name: str = ""
    inputs: int = 0
    roughness: float | None = None
    producers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    below: Mapping[str, tuple[int, int, float]] = dataclasses.field(default_factory=dict)
    silent: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    constant: bool = False
    ntk_condition: float | None = None
    jacobian_condition: float | None = None
    diverged: tuple[int, int] = (0, 0)
    repairable: frozenset[str] = frozenset()
    isometric: bool = False
    orthogonalised: bool = False

    @property
    def memorises(self) -> bool:
        """Whether neighbouring inputs get different answers."""
        return self.roughness is not None and self.roughness >= ROUGH

    def with_(self, **changes: Any) -> Evidence:
        """The same with other evidence added."""
        return dataclasses.replace(self, **changes)


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


def largest_values(spectra: WeightSpectra) -> dict[str, float]:
    """The largest singular values by layer."""
    return {name: layer.largest for name, layer in spectra.items()}


def activity_places(
    activity: Activity | None, names: Mapping[str, str] | None = None
) -> dict[str, LayerActivity]:
    """Activity by the names that findings give to the layers."""
    if activity is None:
        return {}
    return {(names or {}).get(name, name): layer for name, layer in activity.items()}
