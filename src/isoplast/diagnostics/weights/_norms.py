"""The largest singular value of every layer by a few products: what a training can afford often."""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor, nn

from isoplast._core.text import text_table
from isoplast.diagnostics._result import Layers, Result, format_number
from isoplast.model import matrices_of_module, preserve_state, unwrap

# From a random start 30 products reach the largest value of a 512 x 512 Gaussian matrix to 2 %; from where
# the last call ended four of them follow what a training changes.
_FIRST, _LATER = 30, 4


class Norms(Layers[float], Result):
    """The largest singular value of each weight matrix by layer, in the network's order."""

    def as_dict(self) -> dict[str, float]:
        """Return the values by layer."""
        return dict(self)

    def __str__(self) -> str:
        rows = [(name, format_number(value)) for name, value in self.items()]
        return text_table(("layer", "largest singular value"), rows, width=80)


@torch.no_grad()
def largest_singular_values(model: nn.Module, starts: dict[str, Tensor] | None = None) -> Norms:
    r"""Estimate the largest singular value of every weight matrix by power iteration, from below.

    .. math:: v \leftarrow \frac{W^T W v}{\|W^T W v\|}, \qquad \sigma_{max} \ge \|W v\|

    Args:
        model: any module; the layers are those of :func:`weight_spectra`.
        starts: right singular vectors of an earlier call, which this one goes on from and replaces.

    Returns:
        By layer; NaN for weights that are not finite.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> _ = layer.weight.data.copy_(torch.diag(torch.tensor([3.0, 4.0])))
        >>> round(largest_singular_values(nn.Sequential(layer))["0"], 3)
        4.0
    """
    starts = {} if starts is None else starts
    network = unwrap(model)
    # Weights that are parameters are read as they are; others are computed, by what may count its calls.
    computed = any(map(_computes_weights, network.modules()))
    with preserve_state(model, runs=False) if computed else contextlib.nullcontext():
        matrices = matrices_of_module(network)[0]
        return Norms({one.name: _largest(one.name, one.blocks, starts) for one in matrices})


def _computes_weights(module: nn.Module) -> bool:
    return (
        hasattr(module, "parametrizations")
        or hasattr(module, "effective_weight")
        or bool(module._forward_pre_hooks)
    )


def _largest(name: str, blocks: Tensor, starts: dict[str, Tensor]) -> float:
    weight = blocks if blocks.dtype in (torch.float32, torch.float64) else blocks.float()
    vector = starts.get(name)
    known = vector is not None and vector.shape == (*weight.shape[:-2], weight.shape[-1], 1)
    if vector is None or not known:
        generator = torch.Generator().manual_seed(0)
        vector = torch.randn(*weight.shape[:-2], weight.shape[-1], 1, generator=generator).to(weight)
    for _ in range(_LATER if known else _FIRST):
        product = weight.mT @ (weight @ vector)
        vector = product / torch.linalg.vector_norm(product, dim=-2, keepdim=True).clamp(min=1e-30)
    largest = float(torch.linalg.vector_norm(weight @ vector, dim=-2).amax())
    if not math.isfinite(largest):
        starts.pop(name, None)
        return math.nan
    starts[name] = vector
    return largest
