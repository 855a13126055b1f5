"""What the units of a fresh network do: what those of a trained one are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics.activity._activity import Activity, activity
from isoplast.model import preserve_state, reconstruct, redrawn

_SEED = 0


def fresh_activity(model: nn.Module, inputs: Any, *, ranks: bool = True) -> Activity | None:
    """The activity of a network with freshly drawn weights; None where nothing knows how to draw them.

    Args:
        model: any module, left as it is, and the random generators with it.
        inputs: what it takes.
        ranks: as for :func:`isoplast.diagnostics.activity`.
    """
    with preserve_state(model, training=None) as network:
        torch.default_generator.manual_seed(_SEED)
        try:
            twin = redrawn(network)[0]
        except IsoplastError:
            return None
        return activity(twin, inputs, ranks=ranks)


def initial_activity(
    initial: nn.Module | Mapping[str, Any] | None, network: nn.Module, inputs: Any
) -> Activity | None:
    """The activity of the network at its start where that is known, else of a fresh one."""
    start = initial if isinstance(initial, nn.Module) else reconstruct(initial) if initial else None
    return fresh_activity(network, inputs) if start is None else activity(start, inputs)
