"""Low-rank adapters: what isometry can mean for their factors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from isoplast._core.errors import IsoplastError


def adapter_groups(model: nn.Module, isometry: float | None = None) -> list[dict[str, Any]]:
    r"""Parameter groups for a model with LoRA adapters: A under isometry, B and the rest free.

    An adapter adds :math:`\tfrac{\alpha}{r} B A` to a frozen weight, A of shape (r, in), B of (out, r) and zero
    at the start. Isometry of the factors is not isometry of the layer, whose weight is the sum, so that
    AdamO must be told what is wanted:

    * A: rows of A that stay orthonormal keep r independent directions of the input in use, and then the
      singular values of the update are those of B. This is what these groups do.
    * B: never. Zero is the adapter that changes nothing; isometry would push B towards singular values of
      one, a change of size :math:`\alpha / r` that no loss asked for.

    Args:
        model: the adapted model; peft's ``lora_A``, ``lora_B`` and ``lora_embedding_*`` names are known.
        isometry: the strength for A, >= 0; None for the optimizer's own.

    Returns:
        Two groups with names, for AdamO, or for any optimizer before ``attach``; frozen parameters are left
        out.

    Raises:
        IsoplastError: if the model has no trainable ``lora_A``.

    Example:
        >>> layer = nn.Module()
        >>> layer.lora_A, layer.lora_B = nn.Linear(64, 8, bias=False), nn.Linear(8, 32, bias=False)
        >>> [[name for name, _ in group["params"]] for group in adapter_groups(layer)]
        [['lora_A.weight'], ['lora_B.weight']]
    """
    kept: list[tuple[str, Tensor]] = []
    free: list[tuple[str, Tensor]] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (kept if _is_a(name, parameter) else free).append((name, parameter))
    if not kept:
        raise IsoplastError(
            "no trainable parameter is named like lora_A: adapter_groups is for models with LoRA adapters"
        )
    own = {} if isometry is None else {"isometry": isometry}
    groups: list[dict[str, Any]] = [{"params": kept, **own}]
    return [*groups, {"params": free, "isometry": 0.0, "bias_decay": 0.0}] if free else groups


def _is_a(name: str, parameter: Tensor) -> bool:
    return "lora_A" in name.split(".") and parameter.ndim >= 2
