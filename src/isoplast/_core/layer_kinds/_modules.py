"""Kinds of modules: linear layers, convolutions, recurrent layers, normalisations, embeddings."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor, nn

Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

LAYERS = (nn.Linear, *CONVOLUTIONS)
"""Layers whose weight has a row for each unit they make and a column for each one they read."""

MAPS = (*LAYERS, *TRANSPOSED_CONVOLUTIONS)
"""Layers that map features to features by one weight."""

RECURRENT = (nn.RNNBase, nn.RNNCellBase)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

BATCH_NORMS = nn.modules.batchnorm._NormBase
"""Normalisations with a scale for each channel that belongs to this channel alone."""

INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
NORMALISATIONS = (BATCH_NORMS, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip

PASSING_MODULES = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.FeatureAlphaDropout, nn.Upsample, nn.ZeroPad2d, *POOLS,
)  # fmt: skip
"""Modules behind which every unit is still itself, in the dimension it was in."""

_GATES = {"LSTM": 4, "GRU": 3}


def is_normalisation(module: nn.Module) -> bool:
    """Whether a module normalises features: torch's normalisations, and any that is called so.

    Example:
        >>> class LlamaRMSNorm(nn.Module): ...
        >>> is_normalisation(LlamaRMSNorm()), is_normalisation(nn.InstanceNorm2d(3))
        (True, True)
    """
    if isinstance(module, NORMALISATIONS):
        return True
    return "norm" in type(module).__name__.lower() and not isinstance(module, MAPS)


def is_embedding(module: nn.Module) -> bool:
    """Whether a module holds a table of vectors: torch's embeddings, and any that is called so."""
    if isinstance(module, EMBEDDINGS):
        return True
    kind = type(module).__name__.lower()
    return "embedding" in kind and "patch" not in kind and not isinstance(module, MAPS)


def is_depthwise(module: nn.Module) -> bool:
    """Whether a convolution has rows of one channel each, which mix no channel with another."""
    if isinstance(module, TRANSPOSED_CONVOLUTIONS):  # its rows are inputs
        return module.groups > 1 and module.groups == module.in_channels
    return (
        isinstance(module, CONVOLUTIONS)
        and module.groups > 1
        and module.groups in (module.in_channels, module.out_channels)
    )


def is_orthogonal_by_construction(parameter: Tensor) -> bool:
    """Whether a layer of ours makes an orthogonal weight from this parameter."""
    return bool(getattr(parameter, "hard_isometry", False))


def stores_transposed(module: nn.Module) -> bool:
    """Whether a linear layer holds its weight as (in, out): GPT-2's Conv1D, which computes x @ W + b."""
    weight = getattr(module, "weight", None)
    return type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.ndim == 2


def gates(module: nn.Module, leaf: str) -> int:
    """How many gates' matrices lie below each other in a weight of a recurrent layer or cell.

    Args:
        module: the layer.
        leaf: the weight's name in it; "weight_hr_..." is an LSTM's projection.
    """
    mode = str(getattr(module, "mode", type(module).__name__.removesuffix("Cell")))
    return 1 if leaf.startswith("weight_hr") else _GATES.get(mode, 1)


def gates_of_state(weight: Tensor, recurrent: Tensor, projection: Tensor | None) -> int:
    """The same told from the shapes that a state dict holds.

    Args:
        weight: the input or recurrent weight in question.
        recurrent: the recurrent weight, shape (gates * hidden, hidden), or (gates * hidden, projected).
        projection: an LSTM's projection, shape (projected, hidden), or None.
    """
    hidden = recurrent.shape[1] if projection is None else projection.shape[1]
    count, rest = divmod(weight.shape[0], hidden)
    return count if rest == 0 and count in _GATES.values() else 1


def is_left_to_its_authors(parameter: Tensor) -> bool:
    """Whether a parameter's authors marked it as none that regularisers may act on.

    State-space models do: ``_no_weight_decay = True`` (Mamba), ``_optim = {"weight_decay": 0.0}`` (S4).
    """
    settings = getattr(parameter, "_optim", None)
    decay = settings.get("weight_decay") if isinstance(settings, dict) else None
    return bool(getattr(parameter, "_no_weight_decay", False)) or decay == 0
