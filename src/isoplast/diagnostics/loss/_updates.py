"""What a step changes: the weights by how much of themselves, and the outputs on reference inputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from isoplast._core.errors import IsoplastError
from isoplast._core.text import text_table
from isoplast.diagnostics._result import Layers, Result, format_number
from isoplast.diagnostics.loss._objective import finite, layer_of, norm
from isoplast.model import (
    clean_name,
    outputs,
    preserve_state,
    refuse_flattened,
    refuse_unready,
    sample_count,
    take_samples,
    unwrap,
    usable,
    whole,
)


@dataclasses.dataclass(frozen=True)
class LayerUpdate:
    """How far the parameters of one layer moved.

    Attributes:
        ratio: |W - W_before| / |W_before| (Frobenius norms over all its trainable parameters); infinite
            for what moved away from zero, 0 for what did not move.
        distance: the numerator.
        finite: whether the weights are finite, before and after; else the numbers are not.
    """

    ratio: float
    distance: float
    finite: bool


@dataclasses.dataclass(frozen=True, eq=False)
class UpdateRatios(Layers[LayerUpdate], Result):
    """How far the weights moved, by layer and as a whole.

    Attributes:
        layers: by name; `found["name"]` is one of them.
        ratio, distance: of all trainable parameters together, as in `LayerUpdate`.
    """

    layers: dict[str, LayerUpdate]
    ratio: float
    distance: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "_items", self.layers)  # what Layers looks up, past the freezing

    @property
    def finite(self) -> bool:
        """Whether all weights are finite, before and after."""
        return all(layer.finite for layer in self.layers.values())

    def as_dict(self) -> dict[str, float]:
        """Return the numbers under their names, and `ratio/layer` of each layer."""
        layers = {f"ratio/{name}": layer.ratio for name, layer in self.layers.items()}
        return {"ratio": self.ratio, "distance": self.distance, **layers}

    def __str__(self) -> str:
        rows = [
            [name, format_number(one.ratio), format_number(one.distance), "" if one.finite else "NOT FINITE"]
            for name, one in [*self.layers.items(), ("all", LayerUpdate(self.ratio, self.distance, True))]
        ]
        return text_table(("layer", "update / weight", "update", ""), rows, width=80)


def update_ratio(model: nn.Module, before: nn.Module | Mapping[str, Tensor]) -> UpdateRatios:
    r"""How far the weights moved since an earlier state, relative to their size.

    .. math:: \frac{|W - W_{before}|_F}{|W_{before}|_F}

    For a single optimizer step about 1e-3 is usual; far less means that the layer hardly learns, far more
    that it is being overwritten. `Updates` keeps the earlier state for you. Weights that are sharded over
    processes are put together first: call it on all of them.

    Args:
        model: the network now; its trainable parameters are compared.
        before: the network then, or its state dict (copies of the tensors, not the tensors themselves).

    Returns:
        The result: print it, or look at `.ratio` and `["layer"].ratio`.

    Raises:
        IsoplastError: if a parameter is missing from the earlier state, or has another shape there.

    Example:
        >>> layer = nn.Linear(4, 4)
        >>> then = {name: 2 * tensor for name, tensor in layer.state_dict().items()}
        >>> update_ratio(layer, then).ratio
        0.5
    """
    now = _trainable(model)
    then = dict(unwrap(before).named_parameters()) if isinstance(before, nn.Module) else before
    then = {clean_name(name): tensor for name, tensor in then.items()}
    members: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, parameter in now.items():
        if name not in then or then[name].shape != parameter.shape:
            raise IsoplastError(
                f"the earlier state has no {name} of shape {tuple(parameter.shape)}: compare the same network"
            )
        members.setdefault(layer_of(name), []).append((parameter, then[name].detach().to(parameter.device)))
    sizes = {name: _sizes(pairs) for name, pairs in members.items()}
    layers = {
        name: LayerUpdate(_ratio(distance, size), distance, sound)
        for name, (distance, size, sound) in sizes.items()
    }
    distance, size = (math.hypot(*column) for column in list(zip(*sizes.values(), strict=True))[:2])
    return UpdateRatios(layers, _ratio(distance, size), distance)


class Updates:
    """Update-to-weight ratios of each step: call `step()` after the optimizer's.

    It keeps one copy of the trainable parameters.

    Args:
        model: the network in training.

    Example:
        >>> layer = nn.Linear(4, 4, bias=False)
        >>> optimizer, updates = torch.optim.SGD(layer.parameters(), lr=0.1), Updates(layer)
        >>> layer(torch.ones(2, 4)).sum().backward(); optimizer.step()
        >>> round(updates.step().distance, 4)  # lr times the norm of a gradient of 16 times 2
        0.8
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before = _copies(model)

    def step(self) -> UpdateRatios:
        """Return how far the weights moved since the last call, or since the beginning."""
        found = update_ratio(self._model, self._before)
        self._before = _copies(self._model)
        return found


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    network = unwrap(model)
    refuse_unready(network)
    refuse_flattened(network)
    found = {clean_name(name): p.detach() for name, p in network.named_parameters() if p.requires_grad}
    if not found:
        raise IsoplastError(f"{type(model).__name__} has no trainable parameter: nothing can move")
    return found


def _copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in _trainable(model).items()}


def _sizes(pairs: list[tuple[Tensor, Tensor]]) -> tuple[float, float, bool]:
    """How far parameters moved, the norm that they had, and whether all is finite."""
    pairs = [(whole(now), whole(then)) for now, then in pairs]
    # In float64 inside: the difference of two float32 numbers is then exact.
    distance = norm([now.double() - then.double() for now, then in pairs])
    sound = finite(tensor for pair in pairs for tensor in pair)
    return distance, norm([then for _, then in pairs]), sound


def _ratio(distance: float, size: float) -> float:
    return distance / size if size else (math.inf if distance else 0.0)


@dataclasses.dataclass(frozen=True)
class OutputChange(Result):
    """How the outputs on the reference inputs changed.

    Attributes:
        mean_square: mean of (f - f_before)^2 over samples and outputs.
        kl: mean of KL(p_before | p) over the samples, in nats, p the softmax over the last dimension;
            NaN for a single output.
        flips: share of the samples whose largest output is another one; NaN for a single output.
    """

    mean_square: float
    kl: float
    flips: float

    def as_dict(self) -> dict[str, float]:
        """Return the numbers under their names."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return text_table(
            ("churn", "mean square", "KL", "flips"), [["", *map(format_number, self.as_dict().values())]]
        )


class Churn:
    r"""How much a step changes the outputs on inputs that it was not about: call `step()` after it.

    .. math:: C = \frac{1}{n} \sum_i |f_{\theta_{t+1}}(x_i) - f_{\theta_t}(x_i)|^2 / d_{out}

    The network is measured in evaluation mode, with autocast off, and left as it was. Only its outputs are
    remembered.

    Args:
        model: the network in training.
        inputs: reference inputs: a tensor (n, ...), or a tuple or mapping of such, on the model's device.
        batch_size: samples in a forward pass, >= 1.

    Raises:
        IsoplastError: for inputs that do not fit.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> churn = Churn(layer, torch.randn(8, 4))
        >>> with torch.no_grad():
        ...     _ = layer.bias.add_(0.5)
        >>> round(churn.step().mean_square, 4), churn.step().mean_square
        (0.25, 0.0)

    Reference:
        Tang et al., arXiv:2506.00592 (churn and plasticity).
    """

    def __init__(self, model: nn.Module, inputs: Any, *, batch_size: int = 1024) -> None:
        if batch_size < 1:
            raise IsoplastError(f"batch_size is {batch_size}: a pass takes at least one sample")
        self._model, self._inputs, self._batch_size = model, usable(inputs), batch_size
        self._before = self._outputs()

    def _outputs(self) -> Tensor:
        with preserve_state(self._model) as network, torch.no_grad():
            starts = range(0, sample_count(self._inputs), self._batch_size)
            rows = (slice(start, start + self._batch_size) for start in starts)
            return torch.cat([outputs(network, take_samples(self._inputs, part)) for part in rows])

    def step(self) -> OutputChange:
        """Return how the outputs changed since the last call, or since the beginning."""
        before, now = self._before.double(), self._outputs()
        self._before, after = now, now.double()
        mean_square = float((after - before).square().mean())
        if before.shape[-1] < 2:
            return OutputChange(mean_square, math.nan, math.nan)
        before, after = before.flatten(0, -2), after.flatten(0, -2)
        kl = kl_div(log_softmax(after, -1), log_softmax(before, -1), reduction="batchmean", log_target=True)
        flips = (before.argmax(-1) != after.argmax(-1)).double().mean()
        unknown = math.nan if not math.isfinite(mean_square) else float(flips)
        return OutputChange(mean_square, float(kl), unknown)
