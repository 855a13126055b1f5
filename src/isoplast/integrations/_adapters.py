"""Low-rank adapters: what isometry can mean for their factors."""

from __future__ import annotations

from typing import Any

from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.optim import param_groups

# What adapters hold beside A: the factor that starts at zero, the factors of embeddings, DoRA's magnitudes.
_LEFT_ALONE = ("lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")


def adapter_groups(model: nn.Module, isometry: float | None = None) -> list[dict[str, Any]]:
    r"""Parameter groups for a model with LoRA adapters: A under isometry, B free.

    An adapter adds :math:`\tfrac{\alpha}{r} B A` to a frozen weight, A of shape (r, in), B of (out, r) and
    zero at the start. Isometry of the factors is not isometry of the layer, whose weight is the sum, so that
    ``AdamO(model)`` refuses and must be told what is wanted:

    * A: rows of A that stay orthonormal keep r independent directions of the input in use, and then the
      singular values of the update are those of B. This is what these groups do.
    * B: never. Zero is the adapter that changes nothing; isometry would push B towards singular values of
      one, a change of size :math:`\alpha / r` that no loss asked for.

    Other parameters that are trained (a classifier, unfrozen layers) are as in :func:`isoplast.param_groups`.

    Args:
        model: the adapted model, with peft's names ``lora_A`` and ``lora_B``.
        isometry: the strength, >= 0; None for the optimizer's own.

    Returns:
        Groups with names, for AdamO, or for any optimizer before ``attach``; frozen parameters are left out.

    Raises:
        IsoplastError: if the model has no trainable ``lora_A``.

    Example:
        >>> layer = nn.Module()
        >>> layer.lora_A, layer.lora_B = nn.Linear(64, 8, bias=False), nn.Linear(8, 32, bias=False)
        >>> [[name for name, _ in group["params"]] for group in adapter_groups(layer)]
        [['lora_A.weight'], ['lora_B.weight']]
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not any("lora_A" in name.split(".") for name in trained):
        raise IsoplastError(
            "no trainable parameter is named like lora_A: adapter_groups is for models with LoRA adapters"
        )
    alone = [name for name in trained if not set(_LEFT_ALONE).isdisjoint(name.split("."))]
    found: list[dict[str, Any]] = []
    for group in param_groups(model, isometry, exclude=[_exactly(name) for name in alone]):
        kept = [(name, p) for name, p in group["params"] if p.requires_grad]
        if kept:
            found.append({**group, "params": kept})
    return found


def _exactly(name: str) -> str:
    """The shell pattern that matches this name alone."""
    return name.replace("[", "[[]")
