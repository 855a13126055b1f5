"""What the parameters of an optimizer are for, and how each is seen as matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from isoplast.isometry import Split, is_matrix, matrix_views
from isoplast.model import Decision


class Layout(NamedTuple):
    """How one parameter is seen as matrices; the fields are those of :func:`isoplast.param_groups`."""

    batch_dims: int = 0
    split: Split = 1
    operator: int | None = None

    def views(self, param: Tensor) -> tuple[Tensor, ...]:
        """The matrices inside the parameter."""
        return matrix_views(param, batch_dims=self.batch_dims, split=self.split)


def is_frozen(param: Tensor) -> bool:
    """Whether a parameter takes no gradient, so that nothing moves it; plain tensors may be given one."""
    return isinstance(param, nn.Parameter) and not param.requires_grad


class Roles:
    """What the parameters of an optimizer are for: as a module says, or else as shapes and groups say."""

    def __init__(self, decisions: Iterable[Decision] | None = None) -> None:
        self._decisions = None if decisions is None else {d.parameter: d for d in decisions}

    def layout(self, param: Tensor, group: Mapping[str, Any]) -> Layout | None:
        """How a parameter is kept isometric where its group asks for it; None if it is left alone."""
        if self._decisions is None:
            layout = Layout(group["isometry_batch_dims"], group["isometry_split"], group["isometry_operator"])
            return layout if is_matrix(param, batch_dims=layout.batch_dims) else None
        found = self._decisions.get(param)
        if found is None or not found.isometric:
            return None
        return Layout(found.batch_dims, found.split, found.operator)

    def matrices(self, params: Iterable[Tensor], group: Mapping[str, Any]) -> list[tuple[Tensor, Layout]]:
        """Those of some parameters that are kept isometric, with their layouts."""
        pairs = ((p, self.layout(p, group)) for p in params)
        return [(p, layout) for p, layout in pairs if layout is not None]

    def biases(self, params: Iterable[Tensor]) -> list[Tensor]:
        """Those that a group's bias decay is for: the vectors, of a module its biases."""
        if self._decisions is None:
            return [p for p in params if p.ndim == 1]
        return [p for p in params if p in self._decisions and self._decisions[p].role == "bias"]

    def require_known(self, params: Iterable[Tensor]) -> None:
        """Refuses matrices that the module does not hold: they would silently be left alone.

        Raises:
            ValueError: naming the shape of the first one.
        """
        for p in params:
            if self._decisions is not None and p not in self._decisions and is_matrix(p):
                raise ValueError(
                    f"the optimizer holds a matrix of shape {tuple(p.shape)} that is not in the model: give "
                    "a module that holds all of them (nn.ModuleList([actor, critic]), say)"
                )

    def moved(self, new: Mapping[Tensor, Tensor]) -> Roles:
        """The same roles for other parameters, given as a mapping from old to new ones."""
        if self._decisions is None:
            return self
        return Roles(replace(d, parameter=new[p]) for p, d in self._decisions.items() if p in new)


BY_SHAPE = Roles()
