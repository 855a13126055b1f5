"""Isometric initialisation of whole networks."""

from __future__ import annotations

from torch import nn


def isometric_init_(model: nn.Module, gain: float = 1.0, *, head_gain: float | None = None) -> nn.Module:
    """Initialise every layer of the model in place as `gain` times an isometry; biases become zero.

    Args:
        model: the network; its output layer is the attribute `head` where it has one.
        gain: all singular values of the hidden weights.
        head_gain: the same for the head; None means `gain`.

    Returns:
        The model.
    """
    head = getattr(model, "head", None)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            factor = head_gain if module is head and head_gain is not None else gain
            nn.init.orthogonal_(module.weight, factor)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
