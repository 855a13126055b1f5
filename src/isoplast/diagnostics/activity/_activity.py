"""What the hidden units do on given inputs, and how many directions their features span."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast._core.text import text_table
from isoplast.diagnostics._result import Layers, Result, format_number
from isoplast.diagnostics.activity._features import Features, srank
from isoplast.isometry import effective_rank, stable_rank, working
from isoplast.model import ActivationRecorder, preserve_state, run

# Kinds that are the identity where they are positive.
_LINEAR_ABOVE_ZERO = ("relu", "relu6", "leaky_relu", "prelu", "rrelu", "crelu")
_BOUNDS = {
    "tanh": (-1.0, 1.0),
    "rnn_tanh": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "hardtanh": (-1.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "softsign": (-1.0, 1.0),
    "relu6": (-math.inf, 6.0),
}
# tanh' is below 0.1 where |tanh| > 0.95, sigmoid' below a tenth of its maximum within 0.025 of 0 and 1.
_NEAR = 0.05
_NEARLY_ALL = 0.95
_MISSED = 0.02  # of the units that fire at all, those that may not have done so


class NoHiddenLayer(IsoplastError):
    """A network without anything between its inputs and its outputs that could be observed."""


@dataclasses.dataclass(frozen=True)
class LayerActivity:
    r"""What the units of one layer do; every number is NaN if an activation is not finite.

    A sample is one input, or one position of it (pixel, token); the units of a convolution are its
    channels.

    Attributes:
        kind: the nonlinearity, "attention" and "sdpa" for attention, "output" for a chosen module.
        units: number of units.
        samples: number of samples.
        finite: whether every activation is.
        scores: shape (units,), float64: :math:`s_i = E|h_i| / (\frac1n \sum_k E|h_k| + 10^{-9})`.
        dormant_at: share of the units with a score of at most tau, by tau.
        dormant: the same at the last tau asked for.
        dead: share of the units that are exactly 0 on every sample.
        rare: estimated share of the units that are zero on these inputs and would not be on others: with
            f1 and f2 units that fire on exactly one and two of the inputs, at least
            f1 (f1 - 1) / (2 (f2 + 1)) units fire on inputs that were not drawn (Chao 1984). At most `dead`.
        inputs: number of inputs.
        inputs_needed: estimated number of inputs until all but 2 % of the units that ever fire have done so;
            the number that was given where these suffice.
        saturated: share of the units that lie within 2.5 % of the range of a bound (tanh, sigmoid and
            their like; the upper bound of ReLU6) on at least 95 % of the samples; 0 for kinds without bounds.
        linearised: share of the units that are positive on every sample, where their ReLU (leaky, PReLU)
            is the identity; 0 for other kinds.
        feature_norm: mean over the samples of the Euclidean norm over the units.
        feature_rank: srank(0.99) of the feature matrix (samples, units), which is not centred. This and
            the next three are NaN without `ranks`.
        effective_rank: entropy rank of its singular values.
        stable_rank: :math:`\sum \sigma^2 / \sigma_{max}^2`.
        duplicates: share of the units that repeat an earlier one: correlation beyond the limit. Of few
            samples (below about 20) chance alone makes many.
        rank_samples: number of samples behind these four.
    """

    kind: str
    units: int
    samples: int
    finite: bool
    scores: Tensor
    dormant_at: dict[float, float]
    dormant: float
    dead: float
    rare: float
    inputs: int
    inputs_needed: int
    saturated: float
    linearised: float
    feature_norm: float
    feature_rank: float
    effective_rank: float
    stable_rank: float
    duplicates: float
    rank_samples: int

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name; without ranks that were not asked for."""
        left_out = _RANKED if self.finite and not self.rank_samples else ()
        values = {name: float(getattr(self, name)) for name in ("finite", *_SHARES, *_RANKED)}
        values |= {f"dormant_at_{tau:g}": share for tau, share in self.dormant_at.items()}
        return {name: value for name, value in values.items() if name not in left_out}


_SHARES = ("units", "dormant", "dead", "rare", "saturated", "linearised", "feature_norm")
_RANKED = ("feature_rank", "effective_rank", "stable_rank", "duplicates")


class Activity(Layers[LayerActivity], Result):
    """The activity of a network by layer: a mapping; its own numbers speak of all layers together.

    NaN in one layer is NaN here.

    Attributes:
        units: number of all units.
        dormant, dead, rare, saturated, linearised, duplicates: shares of all units.
        inputs_needed: of the layer that needs most.
        dormant_at: share of the dormant units by tau.
        feature_norm, feature_rank, effective_rank, stable_rank: of the last layer, the features that the
            head sees.
        finite: whether every activation is.
        observed: what was taken for the hidden layers, in words.
    """

    def __init__(self, layers: Mapping[str, LayerActivity], observed: str) -> None:
        super().__init__(layers)
        self.observed = observed
        ones = list(layers.values())
        self.units = sum(one.units for one in ones)

        def share(values: Iterator[float]) -> float:
            pairs = zip(ones, values, strict=True)
            return sum(one.units * value for one, value in pairs) / self.units

        self.dormant = share(one.dormant for one in ones)
        self.dead = share(one.dead for one in ones)
        self.rare = share(one.rare for one in ones)
        self.inputs_needed = max(one.inputs_needed for one in ones)
        self.saturated = share(one.saturated for one in ones)
        self.linearised = share(one.linearised for one in ones)
        self.duplicates = share(one.duplicates for one in ones)
        self.dormant_at = {tau: share(one.dormant_at[tau] for one in ones) for tau in ones[0].dormant_at}
        self.feature_norm = ones[-1].feature_norm
        self.feature_rank = ones[-1].feature_rank
        self.effective_rank = ones[-1].effective_rank
        self.stable_rank = ones[-1].stable_rank
        self.finite = all(one.finite for one in ones)
        self._rank_samples = ones[-1].rank_samples

    def as_dict(self) -> dict[str, float]:
        """Return the network's numbers by name, and the layers' as "layer/name"."""
        left_out = _RANKED if self.finite and not self._rank_samples else ()
        values = {name: float(getattr(self, name)) for name in ("finite", *_SHARES, *_RANKED)}
        values |= {f"dormant_at_{tau:g}": share for tau, share in self.dormant_at.items()}
        values = {name: value for name, value in values.items() if name not in left_out}
        for layer, one in self.items():
            values |= {f"{layer}/{name}": value for name, value in one.as_dict().items()}
        return values

    def __str__(self) -> str:
        tau = list(self.dormant_at)[-1]
        header = ("layer", "units", f"dormant({tau:g})", "dead", "satur.", "linear", "dupl.", "srank", "norm")
        rows = [(name, *_cells(one)) for name, one in self.items()]
        lines = [
            text_table(header, [*rows, ("all", *_cells(self)[:6], "", "")], width=80),
            f"observed: {self.observed}",
        ]
        lines += [f"{name}: activations are not finite" for name, one in self.items() if not one.finite]
        return "\n".join(lines)

    __repr__ = __str__


def _cells(one: LayerActivity | Activity) -> tuple[str, ...]:
    shares = (one.dormant, one.dead, one.saturated, one.linearised, one.duplicates)
    percent = ["nan" if math.isnan(value) else f"{100 * value:.3g} %" for value in shares]
    return (str(one.units), *percent, format_number(one.feature_rank), format_number(one.feature_norm))


def activity(
    model: nn.Module,
    inputs: Any,
    *,
    tau: float | Sequence[float] = (0.0, 0.025, 0.1),
    batch_size: int = 256,
    ranks: bool = True,
    duplicate: float = 0.95,
    layers: Sequence[str] | None = None,
) -> Activity:
    r"""Dormant, dead, saturated, linearised and duplicate units, and the rank of the features.

    .. math:: \text{unit } i \text{ is } \tau\text{-dormant if } \quad
              s_i = \frac{E_x |h_i(x)|}{\frac1n \sum_k E_x |h_k(x)| + 10^{-9}} \le \tau

    Hidden layers are the outputs of activations, be they modules (those of torch, classes derived from
    `isoplast.nn.Activation`, and modules without parameters that are not seen to be linear), functions
    called in a forward method (torch.relu, F.gelu, ...) or written out there (torch.where, a product with
    a mask, ...) and read by a layer; of attention (before the output projection where it is a function,
    after it for nn.MultiheadAttention) and of recurrent layers. Where no activation runs, they are the
    outputs of all linear layers and convolutions but the last. `Activity.observed` says which it was.

    The network is in evaluation mode: BatchNorm uses its running statistics, dropout does nothing. Inputs
    pass in batches, and of the features only sums and second moments are kept.

    Args:
        model: any module; a compiled one runs uncompiled here.
        inputs: what it takes, n >= 1 along the first dimension: a tensor, a tuple of positional or a mapping
            of keyword arguments (a dict, what a tokenizer returns).
        tau: limits of the score, >= 0. `dormant` is at the last.
        batch_size: inputs per forward pass, >= 1.
        ranks: whether to compute ranks and duplicates, which cost more than all the rest.
        duplicate: correlation beyond which a unit repeats another one, in (0, 1).
        layers: names of modules, or patterns of names, whose outputs are taken instead.

    Returns:
        The activity by layer name, with its aggregates.

    Raises:
        IsoplastError: for no inputs or ones that do not fit, values out of range, unknown layers, and a
            network without a hidden layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [-1.0]])), model[0].bias.data.zero_()
        >>> activity(model, torch.rand(100, 1))["1"].dead
        0.5

    Reference:
        Sokar et al., "The dormant neuron phenomenon in deep RL", arXiv:2302.12902, Eq 1 (score);
        Kumar et al., arXiv:2010.14498 (srank); Lyle et al., arXiv:2402.18762 (linearised units).
    """
    taus = (float(tau),) if isinstance(tau, int | float) else tuple(float(value) for value in tau)
    if not taus or min(taus) < 0 or not all(map(math.isfinite, taus)):
        raise IsoplastError(f"tau={tau}: give finite limits of the score, >= 0")
    if batch_size < 1 or not 0.0 < duplicate < 1.0:
        raise IsoplastError(f"batch_size={batch_size} must be >= 1 and duplicate={duplicate} within (0, 1)")
    count = _count(inputs)
    with preserve_state(model) as network, torch.no_grad():
        units, observed = _watch(network, inputs, count, batch_size, ranks, layers)
        found = {name: one.result(taus, duplicate) for name, one in units.items()}
    return Activity(found, observed)


def _watch(
    network: nn.Module, inputs: Any, count: int, batch_size: int, ranks: bool, layers: Sequence[str] | None
) -> tuple[dict[str, _Units], str]:
    """The sums over all inputs by layer, and what the layers are."""
    units: dict[str, _Units] = {}
    size = count

    def observe(name: str, kind: str, output: Tensor, dim: int) -> None:
        if name not in units:
            units[name] = _Units(kind, output, dim, count / size, ranks)
        units[name].add(output, dim)

    watch = ActivationRecorder(network, observe, layers)
    with watch.running():
        for start in range(0, count, batch_size):
            size = min(batch_size, count - start)
            run(network, _part(inputs, count, start, start + size))
    if units:
        kinds = sorted({one.kind for one in units.values()})
        return units, f"{len(units)} outputs of {', '.join(kinds) if layers is None else 'chosen modules'}"
    hidden = list(dict.fromkeys(watch.linear))[:-1]
    if layers is not None or not hidden:
        raise NoHiddenLayer(
            f"no hidden layer was seen in {type(network).__name__}: name modules with layers=[...] "
            "(inside scripted and traced modules nothing can be seen)"
        )
    return _watch(network, inputs, count, batch_size, ranks, hidden)[0], (
        f"{len(hidden)} outputs of linear layers, since no activation function ran"
    )


class _Units:
    """The sums over all samples that say what the units of one layer do."""

    def __init__(self, kind: str, output: Tensor, dim: int, batches: float, ranks: bool) -> None:
        self.kind = kind
        self.count = output.shape[dim]
        self.samples = 0
        self.total = torch.zeros(self.count, dtype=torch.float64, device=output.device)
        self.norms = self.total.sum()
        self.near = torch.zeros_like(self.total)
        self.inputs = 0
        self.fired = torch.zeros_like(self.total)
        self.lowest = torch.full_like(self.total, math.inf)
        expected = math.ceil(output.numel() / self.count * batches)
        self.features = Features(self.count, expected) if ranks else None

    def add(self, output: Tensor, dim: int) -> None:
        """Take in one output."""
        others = [i for i in range(output.ndim) if i != dim % output.ndim]
        self.samples += output.numel() // self.count
        self.inputs += len(output)
        fired = output != 0
        if output.ndim > 2:
            fired = fired.movedim(dim, -1).reshape(len(output), -1, self.count).any(1)
        self.fired += fired.count_nonzero(0)
        self.total += output.abs().sum(others, dtype=torch.float64)
        # In half precision the squares of a norm overflow above 256.
        self.norms += torch.linalg.vector_norm(working(output), dim=dim).sum(dtype=torch.float64)
        if self.kind in _LINEAR_ABOVE_ZERO:
            self.lowest = torch.minimum(self.lowest, output.amin(others))
        if self.kind in _BOUNDS:
            low, high = _BOUNDS[self.kind]
            margin = _NEAR / 2 * (high - low if math.isfinite(low) else high)
            self.near += ((output < low + margin) | (output > high - margin)).sum(others)
        if self.features is not None:
            self.features.add(output.movedim(dim, -1).flatten(0, -2))

    def result(self, taus: tuple[float, ...], duplicate: float) -> LayerActivity:
        """What the sums say."""
        # A sum that is not finite has a summand that is not: float64 does not overflow here.
        finite = bool(self.total.isfinite().all())
        activity = self.total / self.samples
        scores = activity / (activity.mean() + 1e-9)

        def share(units: Tensor) -> float:
            return float(units.double().mean()) if finite else math.nan

        dormant = {one: share(scores <= one) for one in taus}
        return LayerActivity(
            kind=self.kind,
            units=self.count,
            samples=self.samples,
            finite=finite,
            scores=scores.cpu() if finite else torch.full_like(scores, math.nan).cpu(),
            dormant_at=dormant,
            dormant=dormant[taus[-1]],
            dead=share(self.total == 0),
            **self._rare(finite),
            saturated=share(self.near >= _NEARLY_ALL * self.samples),
            linearised=share((self.lowest > 0) & self.lowest.isfinite()),
            feature_norm=float(self.norms) / self.samples if finite else math.nan,
            **self._ranked(finite, duplicate),
        )

    def _rare(self, finite: bool) -> dict[str, Any]:
        """Units that fire so rarely that these inputs may have missed them."""
        silent, once, twice = (int((self.fired == count).sum()) for count in range(3))
        missed = min(once * (once - 1) / (2 * (twice + 1)), silent) if finite else math.nan
        seen = self.count - silent
        needed = self.inputs
        if finite and missed > _MISSED * (seen + missed):  # how the curve goes on (Chao et al. 2009)
            ratio = missed / (_MISSED * (seen + missed))
            needed += math.ceil(self.inputs * once / (2 * max(twice, 1)) * math.log(ratio))
        return {"rare": missed / self.count, "inputs": self.inputs, "inputs_needed": needed}

    def _ranked(self, finite: bool, duplicate: float) -> dict[str, Any]:
        if self.features is None or not finite:
            return {**dict.fromkeys(_RANKED, math.nan), "rank_samples": 0}
        values = self.features.singular_values()
        return {
            "feature_rank": float(srank(values)),
            "effective_rank": float(effective_rank(values)),
            "stable_rank": float(stable_rank(values)),
            "duplicates": self.features.duplicates(duplicate),
            "rank_samples": self.features.samples,
        }


def _count(inputs: Any) -> int:
    """The number of inputs."""
    parts = tuple(inputs.values()) if isinstance(inputs, Mapping) else inputs
    tensors = [
        part
        for part in (parts if isinstance(parts, tuple) else (parts,))
        if isinstance(part, Tensor) and part.ndim
    ]
    if not tensors:
        raise IsoplastError(f"inputs of type {type(inputs).__name__} hold no tensor: give a batch of inputs")
    if not tensors[0].numel():
        raise IsoplastError(f"inputs of shape {tuple(tensors[0].shape)} are empty: give at least one input")
    return len(tensors[0])


def _part(inputs: Any, count: int, start: int, stop: int) -> Any:
    """A range of the inputs; arguments that are no batch stay whole."""
    if isinstance(inputs, Mapping):
        return {name: _part(value, count, start, stop) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(_part(value, count, start, stop) for value in inputs)
    batch = isinstance(inputs, Tensor) and inputs.ndim and len(inputs) == count
    return inputs[start:stop] if batch else inputs
