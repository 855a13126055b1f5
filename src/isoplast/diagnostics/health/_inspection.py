"""Weights and activity together: which layers are critical."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from isoplast._core.errors import IsoplastError
from isoplast._core.layer_kinds import LAYERS, Convolution
from isoplast.diagnostics._result import Result, wrapped
from isoplast.diagnostics.activity._activity import Activity, NoHiddenLayer, activity
from isoplast.diagnostics.health._findings import (
    Finding,
    activity_findings,
    barrier_findings,
    broken_findings,
    hardly_tells_apart,
    is_critical,
    ordered,
    silence_findings,
    weight_findings,
)
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
    sample_count,
    silent_units,
    take_samples,
    unwrap,
)

_BATCH = 256
_ASSUMPTION = "assumed: ReLU between the linear layers"


@dataclass(frozen=True)
class Inspection(Result):
    """What was found in a network.

    Attributes:
        spectra: the singular values of the weights by layer.
        activity: what the units do, None without inputs or hidden layers.
        findings: what is wrong, the worst first.
        producers: by place of activity, the layer with weights that feeds it.
        assumption: what was assumed for want of a module or inputs, in one line; or nothing.
        broken: the tensors that hold a NaN or an infinity, by name: those no repair brings back.
    """

    spectra: WeightSpectra
    activity: Activity | None
    findings: tuple[Finding, ...]
    producers: Mapping[str, str]
    assumption: str
    broken: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether no finding is an illness; warnings may be there."""
        return not is_critical(self.findings)

    @property
    def critical_layers(self) -> set[str]:
        """The layers to repair: where the network is critical, those with a critical finding or a warning."""
        if self.healthy:
            return set()
        named = {f.where for f in self.findings if f.severity != "note" and f.where != "network"}
        return {self.producers.get(name, name).partition("[")[0] for name in named}

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
        initial: the network at its start, a module or a state dict.

    Returns:
        The findings with the numbers behind them.

    Raises:
        IsoplastError: for inputs that do not fit, hold a NaN or an infinity, or are for a state dict that is
            no chain; for no weights.

    Example:
        >>> inspect(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))).healthy
        True
    """
    whole = isinstance(model, nn.Module)
    refuse_non_finite(inputs)
    state = _state(model)
    spectra = weight_spectra(model, initial=initial)
    start = None if initial is None else weight_spectra(initial)
    findings = weight_findings(spectra, normalised=has_normalisation(state), initial=start)
    measured = {name.partition("[")[0] for name in spectra}
    bad = tuple(map(clean_name, non_finite_names(state)))
    findings += broken_findings(name for name in bad if name.removesuffix(".weight") not in measured)
    network = model if isinstance(model, nn.Module) else reconstruct(model)
    assumption = _ASSUMPTION if isinstance(network, ReconstructedMLP) else ""
    if inputs is None or not spectra.finite:
        if isinstance(network, ReconstructedMLP) and spectra.finite:
            largest = {name: layer.largest for name, layer in spectra.items()}
            findings += silence_findings(silent_units(network), largest)
        return Inspection(spectra, None, tuple(ordered(findings)), {}, assumption, bad)
    if network is None:
        raise IsoplastError(
            "inputs need a network, and these are weights without one: leave the inputs out, or inspect the "
            "module itself in Python with isoplast.diagnose(model, inputs)"
        )
    try:
        found = activity(network, inputs)
    except NoHiddenLayer:  # a linear model is healthy or not by its weights alone
        return Inspection(spectra, None, tuple(ordered(findings)), {}, assumption, bad)
    feed = feeding(network, inputs)
    # A chain's activations are ours, and have no name that the reader of its state dict knows.
    places = found if whole else {feed.producers[place]: layer for place, layer in found.items()}
    constant = {feed.producers.get(place) or place for place, one in found.items() if hardly_tells_apart(one)}
    findings += activity_findings(places) + barrier_findings(feed.below, constant)
    return Inspection(spectra, found, tuple(ordered(findings)), feed.producers, assumption, bad)


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
