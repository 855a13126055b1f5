"""Gradients of a batch: how large, by layer, how much samples interfere, and how noisy."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from isoplast._core.errors import IsoplastError
from isoplast._core.text import text_table
from isoplast.diagnostics._result import Layers, Result, format_number, wrapped
from isoplast.diagnostics.loss._objective import Loss, Objective, finite, layer_of, norm
from isoplast.isometry import effective_rank
from isoplast.model import (
    applied,
    differentiable_kernels,
    preserve_state,
    refuse_batch_statistics,
    take_samples,
)

_PASS = 256  # samples per pass for the gradient of the mean, which takes no more memory than training
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class LayerGradient:
    """The gradient of the mean loss by the parameters of one layer.

    Attributes:
        norm: of the gradient of the mean loss by all trainable parameters of the layer.
        weight_norm: of these parameters.
        finite: whether all of both are finite; else the norms are not.
    """

    norm: float
    weight_norm: float
    finite: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Gradients(Layers[LayerGradient], Result):
    """The gradients of a batch, by layer and sample by sample.

    Attributes:
        layers: the layers that have trainable parameters; `found["name"]` is one of them.
        norm: of the gradient of the mean loss by all parameters.
        sample_norms: float64 (n,): the norm of the gradient of each sample's loss.
        cosines: float64 (n, n): between the gradients of each two samples, 0 where one is zero.
        interference: mean cosine over the pairs of different samples: 1 where all pull in one direction,
            0 where none affects another, negative where they undo each other; NaN for one sample.
        conflicts: share of the pairs with a negative cosine.
        effective_rank: exp of the entropy of the eigenvalues of the Gram matrix of the gradients over their
            sum: of how many directions the batch consists, at most n.
        noise_scale: tr(S) / |G|^2 with the covariance S of the samples' gradients and their expectation G,
            both unbiased: the batch size from which on noise is not what limits a step. Infinite where the
            batch does not show that there is a G at all; NaN for one sample.
    """

    layers: dict[str, LayerGradient]
    norm: float
    sample_norms: Tensor
    cosines: Tensor
    interference: float
    conflicts: float
    effective_rank: float
    noise_scale: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "_items", self.layers)  # what Layers looks up, past the freezing

    @property
    def finite(self) -> bool:
        """Whether all weights and gradients are finite."""
        return all(layer.finite for layer in self.layers.values()) and finite([self.sample_norms])

    def as_dict(self) -> dict[str, float]:
        """Return the numbers under their names, and `norm/layer` of each layer."""
        return {
            "norm": self.norm,
            "sample_norm": float(self.sample_norms.mean()),
            "interference": self.interference,
            "conflicts": self.conflicts,
            "effective_rank": self.effective_rank,
            "noise_scale": self.noise_scale,
            **{f"norm/{name}": layer.norm for name, layer in self.layers.items()},
        }

    def __str__(self) -> str:
        summary = (
            f"gradient norm {format_number(self.norm)}; {len(self.sample_norms)} samples: "
            f"mean cosine {format_number(self.interference)}, "
            f"{format_number(100 * self.conflicts)} % in conflict, "
            f"effective rank {format_number(self.effective_rank)}, "
            f"noise scale {format_number(self.noise_scale)}"
        )
        rows = [
            [
                name,
                format_number(layer.norm),
                format_number(layer.weight_norm),
                "" if layer.finite else "NOT FINITE",
            ]
            for name, layer in self.layers.items()
        ]
        return f"{wrapped(summary)}\n{text_table(('layer', 'gradient', 'weight', ''), rows, width=80)}"


def gradients(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    loss: Loss = cross_entropy,
    *,
    memory_limit: int = 2**30,
) -> Gradients:
    r"""Norms of the gradient, and how the gradients of single samples relate to each other.

    With :math:`g_i = \nabla_\theta \ell(f_\theta(x_i), y_i)` over all trainable parameters,

    .. math:: \text{interference} = \frac{1}{n(n-1)} \sum_{i \ne j} \frac{g_i^T g_j}{|g_i| |g_j|}, \qquad
              \text{noise scale} = \frac{\operatorname{tr} \operatorname{Cov}(g)}{|E g|^2}.

    The network is in evaluation mode (BatchNorm on running statistics, no dropout), autocast is off, and
    all is left as it was, the gradients in `.grad` too.

    Args:
        model: any module whose output is one tensor and whose samples do not influence each other.
        inputs: a tensor (n, ...), or a tuple or mapping of such, on the model's device.
        targets: of the samples, as the loss takes them.
        loss: a function of (outputs, targets), the mean over the samples; it is also called with one sample.
        memory_limit: bytes for gradients of single samples, > 0. Where those of all samples do not fit, pairs
            of blocks are computed, which takes longer.

    Returns:
        The result: print it, or look at `.norm`, `["layer"].norm`, `.interference`, `.noise_scale`.

    Raises:
        IsoplastError: for inputs or targets that do not fit, no trainable parameter, a BatchNorm without
            running statistics, or a memory limit below the gradients of two samples.

    Example:
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> found = gradients(nn.Linear(2, 1, bias=False), x, y, nn.functional.mse_loss)
        >>> found.interference  # orthogonal inputs of a linear map do not interfere
        0.0

    Reference:
        Lyle et al., arXiv:2303.01486 (gradient covariance); McCandlish et al., arXiv:1812.06162, section 2.2
        and appendix A (noise scale).
    """
    with preserve_state(model) as network, torch.enable_grad(), differentiable_kernels(network):
        refuse_batch_statistics(network)
        objective = Objective(network, inputs, targets, loss, _PASS)
        per_sample = objective.size * torch.finfo(objective.dtype).bits // 8
        # Two blocks, each also in the making.
        block = memory_limit // (4 * per_sample)
        if block < 1:
            raise IsoplastError(
                f"memory_limit={memory_limit}: the gradients of two samples take {4 * per_sample} bytes "
                f"({4 * per_sample / _MIB:.0f} MiB): raise it"
            )
        mean = objective.gradient()
        gram = _gram(objective, int(block))
    return _summarise(objective, mean, gram)


def _gram(objective: Objective, block: int) -> Tensor:
    """The inner products of the samples' gradients, float64 (n, n) on the CPU."""
    n = objective.samples
    starts = range(0, n, block)
    gram = torch.zeros(n, n, dtype=torch.float64)
    for first in starts:
        rows = slice(first, min(first + block, n))
        left = _sample_gradients(objective, rows)
        for second in starts[first // block :]:
            columns = slice(second, min(second + block, n))
            right = left if second == first else _sample_gradients(objective, columns)
            products = functools.reduce(torch.add, (a @ b.T for a, b in zip(left, right, strict=True)))
            gram[rows, columns] = products.double().cpu()
            gram[columns, rows] = products.double().cpu().T
    return gram


def _sample_gradients(objective: Objective, rows: slice) -> list[Tensor]:
    """The gradients of the losses of some samples, one matrix (samples, numbers) for each parameter."""
    inputs, targets = take_samples(objective.inputs, rows), take_samples(objective.targets, rows)
    try:
        found = _vectorised(objective, inputs, targets)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IsoplastError):  # vmap's, for code that depends on values or works in place
        found = _looped(objective, rows)
    return [piece.flatten(1).to(objective.dtype) for piece in found]


def _vectorised(objective: Objective, inputs: Any, targets: Any) -> list[Tensor]:
    leaves, spec = tree_flatten((inputs, targets))
    dims = tuple(0 if isinstance(leaf, Tensor) else None for leaf in leaves)

    def one(parameters: dict[str, Tensor], *parts: Any) -> Tensor:
        given, wanted = tree_map_only(Tensor, lambda part: part.unsqueeze(0), tree_unflatten(parts, spec))
        return objective.mean_loss(applied(objective.network, parameters, given), wanted)

    at = {name: parameter.detach() for name, parameter in objective.parameters.items()}
    with warnings.catch_warnings():
        # vmap runs a rare operation row by row
        warnings.filterwarnings("ignore", "There is a performance drop")
        found = vmap(grad(one), in_dims=(None, *dims))(at, *leaves)
    return [found[name].detach() for name in objective.parameters]


def _looped(objective: Objective, rows: slice) -> list[Tensor]:
    def each() -> Iterator[tuple[Tensor, ...]]:
        for index in range(rows.start, rows.stop):
            row = slice(index, index + 1)
            values = objective.outputs(take_samples(objective.inputs, row))
            yield objective.differentiated(objective.mean_loss(values, take_samples(objective.targets, row)))

    return [torch.stack(column) for column in zip(*each(), strict=True)]


def _summarise(objective: Objective, mean: dict[str, Tensor], gram: Tensor) -> Gradients:
    members: dict[str, list[str]] = {}
    for name in mean:
        members.setdefault(layer_of(name), []).append(name)
    layers = {
        layer: _layer([mean[name] for name in names], [objective.parameters[name] for name in names])
        for layer, names in members.items()
    }
    n = len(gram)
    squares = gram.diagonal().clamp(min=0)
    norms = squares.sqrt()
    scale = torch.where(norms == 0, 0.0, 1 / norms)  # NaN stays NaN
    cosines = gram * scale[:, None] * scale
    pairs = cosines[~torch.eye(n, dtype=torch.bool)]
    # Unbiased: E|mean g|^2 = |G|^2 + tr S / n.
    spread = (float(squares.mean()) - float(gram.mean())) * n / (n - 1) if n > 1 else math.nan
    signal = float(gram.mean()) - spread / n
    return Gradients(
        layers=layers,
        norm=norm(list(mean.values())),
        sample_norms=norms,
        cosines=cosines,
        interference=float(pairs.mean()),
        conflicts=float(pairs.lt(0).double().mean()) if bool(gram.isfinite().all()) else math.nan,
        effective_rank=_effective_rank(gram),
        noise_scale=math.inf if signal <= 0 else spread / signal,
    )


def _layer(gradient: list[Tensor], weights: list[Tensor]) -> LayerGradient:
    return LayerGradient(norm(gradient), norm(weights), finite([*gradient, *weights]))


def _effective_rank(gram: Tensor) -> float:
    if not bool(gram.isfinite().all()):
        return math.nan
    return float(effective_rank(torch.linalg.eigvalsh(gram).clamp(min=0)))
