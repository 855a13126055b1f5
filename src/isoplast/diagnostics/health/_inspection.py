"""Weights and activity together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from isoplast._core.errors import IsoplastError
from isoplast._core.layer_kinds import LAYERS, Convolution
from isoplast.diagnostics._result import Result, wrapped
from isoplast.diagnostics.activity._activity import Activity, NoHiddenLayer, activity
from isoplast.diagnostics.health._decide import decide, layers_to_repair
from isoplast.diagnostics.health._editable import editable_weights
from isoplast.diagnostics.health._evidence import Evidence, activity_places, largest_values
from isoplast.diagnostics.health._finding import Finding, has_critical
from isoplast.diagnostics.health._fresh import initial_activity
from isoplast.diagnostics.health._notes import HALF
from isoplast.diagnostics.health._roughness import roughness
from isoplast.diagnostics.weights._spectra import WeightSpectra, weight_spectra
from isoplast.model import (
    ActivationRecorder,
    ReconstructedMLP,
    clean_name,
    has_normalisation,
    non_finite_names,
    outputs,
    preserve_state,
    reconstruct,
    refuse_non_finite,
    run,
    sample_count,
    silent_units,
    take_samples,
    unwrap,
)

_BATCH = 256
_CONSTANT_ROWS = 512
# Outputs that differ by less than this share of their size over all inputs say nothing about them.
_CONSTANT = 1e-6
_ASSUMPTION = "assumed: ReLU between the linear layers"


@dataclass(frozen=True)
class Inspection(Result):
    """What was found in a network.

    Attributes:
        spectra: the singular values of the weights by layer, from input to output where inputs show that.
        activity: what the units do, None without inputs or hidden layers.
        findings: what is wrong, the worst first.
        evidence: the numbers behind them, for :func:`decide`.
        assumption: what was assumed for want of a module or inputs, in one line; or nothing.
        broken: the tensors that hold a NaN or an infinity, by name: those no repair brings back.
    """

    spectra: WeightSpectra
    activity: Activity | None
    findings: tuple[Finding, ...]
    evidence: Evidence
    assumption: str
    broken: tuple[str, ...] = ()

    @property
    def critical(self) -> bool:
        """Whether a finding is critical."""
        return has_critical(self.findings)

    @property
    def half_dead(self) -> tuple[str, ...]:
        """The layers of which half of the units or more are zero on all inputs, as in no fresh network.

        Of the looks at networks that went on learning too many show such a layer for an alarm, of those at
        networks that had lost plasticity too many to call the network healthy (the last of the tables in
        docs/alarms.md).
        """
        units, fresh = self.evidence.activity or {}, self.evidence.start
        half = [place for place, layer in units.items() if layer.dead - layer.rare >= HALF]
        return tuple(place for place in half if place not in fresh or fresh[place].dead < HALF / 2)

    @property
    def healthy(self) -> bool:
        """Whether no finding is critical and no layer half dead; warnings may be there."""
        return not self.critical and not self.half_dead

    @property
    def critical_layers(self) -> frozenset[str]:
        """The layers to repair: none where nothing is critical."""
        return layers_to_repair(self.evidence) if self.critical else frozenset()

    def as_dict(self) -> dict[str, float]:
        """Return every number by name, with the counts of the findings."""
        counts = {
            f"findings/{severity}": float(sum(f.severity == severity for f in self.findings))
            for severity in ("critical", "warning", "note")
        }
        of_activity = {} if self.activity is None else self.activity.as_dict()
        return counts | self.spectra.as_dict() | of_activity

    def __str__(self) -> str:
        parts = [str(self.spectra)] + ([] if self.activity is None else [str(self.activity)])
        return "\n\n".join([*parts, wrapped("\n".join(map(str, self.findings))) or "healthy"])


@dataclass(frozen=True)
class Moment:
    """A network at one time of its training, for a history.

    Attributes:
        name: of the time: a checkpoint's name, a task.
        largest, smallest: singular values by layer.
        dead: share of dead units by place of activity, empty where nobody measured it.
    """

    name: str
    largest: Mapping[str, float]
    smallest: Mapping[str, float]
    dead: Mapping[str, float]


def inspect(
    model: nn.Module | Mapping[str, Any],
    inputs: Any = None,
    *,
    initial: nn.Module | Mapping[str, Any] | None = None,
) -> Inspection:
    """Look for what keeps a network from learning.

    Without inputs the weights alone speak. They show non-finite, vanished and stretched layers; which units
    are dead only inputs show. For a state dict that is a plain chain of linear layers standard normal inputs
    through ReLU stand in for them.

    Args:
        model: any module, or a state dict.
        inputs: what the module takes; for a state dict (n, features), if it is a plain chain.
        initial: the network at its start, a module, a state dict, or its largest singular values by layer.

    Returns:
        The findings with the numbers behind them.

    Raises:
        IsoplastError: for inputs that do not fit, hold a NaN or an infinity, or are for a state dict that is
            no chain; for no weights.

    Example:
        >>> inspect(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))).healthy
        True
    """
    refuse_non_finite(inputs)
    state = _state(model)
    with _one_thread():
        spectra = weight_spectra(model, initial=None if _told(initial) else initial)
    bad = tuple(map(clean_name, non_finite_names(state)))
    measured = {name.partition("[")[0] for name in spectra}
    network = model if isinstance(model, nn.Module) else reconstruct(model)
    evidence = Evidence(
        spectra=spectra,
        largest=largest_values(spectra),
        initial=_largest(initial),
        assumed="relu" if isinstance(network, ReconstructedMLP) else None,
        broken=tuple(name for name in bad if name.removesuffix(".weight") not in measured),
        normalised=has_normalisation(unwrap(model) if isinstance(model, nn.Module) else model),
        repairable=frozenset(name for name, _ in editable_weights(model)),
    )
    found, assumption = None, _ASSUMPTION if isinstance(network, ReconstructedMLP) else ""
    if inputs is not None and spectra.finite:
        if network is None:
            raise IsoplastError(
                "inputs need a network, and these are weights without one: leave the inputs out, or inspect "
                "the module itself in Python with isoplast.diagnose(model, inputs)"
            )
        whole = isinstance(model, nn.Module)
        start = None if _told(initial) else initial
        found, evidence = _with_inputs(network, inputs, evidence, start, whole)
        assert evidence.spectra is not None
        spectra = evidence.spectra
    elif isinstance(network, ReconstructedMLP) and spectra.finite:
        evidence = evidence.with_(silent=silent_units(network))
    return Inspection(spectra, found, decide(evidence), evidence, assumption, bad)


def _with_inputs(
    network: nn.Module,
    inputs: Any,
    evidence: Evidence,
    initial: nn.Module | Mapping[str, Any] | None,
    whole: bool,
) -> tuple[Activity | None, Evidence]:
    """What the units do, added to the evidence."""
    values = _outputs(network, inputs)
    evidence = evidence.with_(
        inputs=sample_count(inputs),
        constant=_constant(values, evidence.spectra),
        roughness=roughness(inputs, values),
    )
    try:
        found = activity(network, inputs)
    except NoHiddenLayer:  # a linear model
        return None, evidence
    feed = feeding(network, inputs)
    # A chain's activations are ours, and have no name that the reader of its state dict knows.
    names = None if whole else feed.producers
    places = activity_places(found, names)
    producers = {(names or {}).get(place, place): producer for place, producer in feed.producers.items()}
    start = activity_places(initial_activity(initial, network, inputs), names)
    assert evidence.spectra is not None
    return found, evidence.with_(
        activity=places,
        features=places,
        start=start,
        start_features=start,
        start_name="" if initial is None else "the start",
        producers=producers,
        below=feed.below,
        spectra=_in_order(evidence.spectra, list(feed.largest)),
    )


def _outputs(network: nn.Module, inputs: Any) -> Tensor | None:
    """The outputs for the first inputs, None where they are no single tensor of a row each."""
    count = min(_CONSTANT_ROWS, sample_count(inputs))
    with preserve_state(network) as lent, torch.no_grad():
        found = run(lent, take_samples(inputs, slice(count)))
    values = getattr(found, "logits", found)
    return values if isinstance(values, Tensor) and values.ndim and len(values) == count else None


def _constant(values: Tensor | None, spectra: WeightSpectra | None) -> bool:
    """Whether the outputs do not depend on the inputs, though the head could pass on what it sees."""
    if values is None or len(values) < 2 or not spectra or list(spectra.values())[-1].largest == 0:
        return False
    flat = values.reshape(len(values), -1).double()
    return float(flat.std(0, unbiased=False).max()) <= _CONSTANT * float(flat.abs().max())


def _in_order(spectra: WeightSpectra, run_order: list[str]) -> WeightSpectra:
    """The layers as they ran, where that is known of each; else as they were registered."""
    places = {name: place for place, name in enumerate(run_order)}
    owners = [name.partition("[")[0] for name in spectra]
    if not all(owner in places for owner in owners):
        return spectra
    ordered = sorted(spectra.items(), key=lambda item: places[item[0].partition("[")[0]])
    return WeightSpectra(dict(ordered), spectra.left_out)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """LAPACK's singular values take five times as long on two threads (ResNet-18: 6.9 s instead of 1.3)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _largest(initial: nn.Module | Mapping[str, Any] | None) -> dict[str, float] | None:
    """The largest singular values of an initial network by layer."""
    if initial is None:
        return None
    return dict(initial) if _told(initial) else largest_values(weight_spectra(initial))


def _told(initial: nn.Module | Mapping[str, Any] | None) -> TypeGuard[Mapping[str, float]]:
    """Whether an initial network is given by its largest singular values alone."""
    return isinstance(initial, Mapping) and all(isinstance(value, float) for value in initial.values())


def _state(model: nn.Module | Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(unwrap(model).state_dict()) if isinstance(model, nn.Module) else model


@dataclass(frozen=True)
class Feed:
    """What feeds the activations of a network on given inputs.

    Attributes:
        producers: by place of activity, the layer with weights that feeds it.
        largest: by such a layer, the largest norm of a vector that its rows are multiplied with.
        biases: by such a layer, its bias, where it has one.
    """

    producers: Mapping[str, str]
    largest: Mapping[str, float]
    biases: Mapping[str, Tensor]

    def unreachable(self) -> dict[str, Tensor]:
        """By layer, a mask of the biases at or below minus the largest norm; layers without are left out."""
        masks = {name: bias.double() <= -self.largest[name] for name, bias in self.biases.items()}
        return {name: mask for name, mask in masks.items() if bool(mask.any())}

    @property
    def below(self) -> dict[str, tuple[int, int, float]]:
        """By layer, the number of such biases, of all its biases, and the largest norm."""
        found = self.unreachable().items()
        return {name: (int(mask.sum()), len(mask), self.largest[name]) for name, mask in found}


def feeding(model: nn.Module, inputs: Any) -> Feed:
    """Run a network on inputs and look at the layers before its activations."""
    layers: dict[str, nn.Linear | Convolution] = {}
    largest: dict[str, float] = {}

    def enter(name: str, layer: nn.Linear | Convolution, given: tuple[Tensor, ...]) -> None:
        largest[name] = max(largest.get(name, 0.0), _largest_norm(layer, given[0]))

    with preserve_state(model) as network, torch.no_grad(), contextlib.ExitStack() as stack:
        own = network.own_names() if isinstance(network, ReconstructedMLP) else {}
        for path, layer in network.named_modules():
            if isinstance(layer, LAYERS):
                name = own.get(path, clean_name(path))
                layers[name] = layer
                stack.callback(layer.register_forward_pre_hook(partial(enter, name)).remove)
        recorder = ActivationRecorder(network, _nothing, None)
        stack.enter_context(recorder.running())
        for batch in batches(inputs):
            outputs(network, batch)
    named = {place: own.get(layer, layer) for place, layer in recorder.producers.items()}
    producers = {place: name for place, name in named.items() if name in largest}
    biases = {name: layers[name].bias for name in producers.values()}
    found = {name: bias.detach() for name, bias in biases.items() if bias is not None}
    return Feed(producers, largest, found)


def _nothing(name: str, kind: str, output: Tensor, dim: int) -> None:
    """An observer for who only wants to know what feeds the activations."""


def batches(inputs: Any) -> Iterator[Any]:
    """The inputs in batches that a forward pass takes at once."""
    for start in range(0, sample_count(inputs), _BATCH):
        yield take_samples(inputs, slice(start, start + _BATCH))


def _largest_norm(layer: nn.Linear | Convolution, hidden: Tensor) -> float:
    """The largest norm of a vector that the rows of the weight are multiplied with: a patch of an image."""
    energy = hidden.double().square()
    if isinstance(layer, nn.Linear):
        return float(energy.sum(-1).amax().sqrt())
    pool = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(layer.kernel_size)]
    ones = energy.new_ones(1, 1, *layer.kernel_size)
    channels = -1 - len(layer.kernel_size)
    summed = pool(energy.sum(channels, keepdim=True), ones, None, layer.stride, layer.padding, layer.dilation)
    return float(summed.amax().sqrt())
