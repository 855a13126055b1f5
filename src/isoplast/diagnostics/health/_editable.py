"""The weights that a repair may change, by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isoplast.model import clean_name, decide, matrices_of_state, unwrap

Layout = dict[str, Any]


def editable_weights(model: nn.Module | Mapping[str, Any]) -> Iterator[tuple[str, tuple[Tensor, Layout]]]:
    """By layer the weight that may be projected, and the layout of the matrices in it."""
    if isinstance(model, nn.Module):
        for one in decide(unwrap(model)):
            if one.isometric:
                name = clean_name(one.name).removesuffix(".weight")
                yield name, (one.parameter, one.layout)
        return
    matrices, left_out = matrices_of_state(model)
    tables = [model[name] for name in left_out if isinstance(model.get(name), Tensor)]
    for name, layout in {one.weight: one.layout for one in matrices}.items():
        weight = model.get(f"{name}.weight", model.get(name))
        # Else a parametrisation makes the weight from others, or it is an embedding at the same time.
        if isinstance(weight, Tensor) and not any(_same(weight, table) for table in tables):
            yield name, (weight, dict(layout))


def _same(weight: Tensor, table: Tensor) -> bool:
    """Whether two entries of a state dict are one weight, perhaps stored twice."""
    return weight.shape == table.shape and (
        weight.data_ptr() == table.data_ptr() or bool(torch.equal(weight, table))
    )
