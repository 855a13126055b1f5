"""Orthogonal initialisation alone: the control for everything that keeps what it starts with."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, Literal

from torch import nn

from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, positive
from isoplast.nn import isometric_init_


@register
@dataclasses.dataclass(frozen=True)
class OrthogonalInit(Method):
    r"""Adam from an orthogonal initialisation, :math:`\sigma_i(W_l) = g` for all i and l.

    Draws all weights of the network anew by `isoplast.nn.isometric_init_`. The networks of
    `isoplast.nn.build` start like this anyway unless they were built with `init="torch"`.

    Args:
        gain: all singular values of the hidden layers, > 0. 1 is the minimum of the isometry penalty; sqrt 2
            keeps the signal's norm through ReLU.
        head_gain: the same for the head, >= 0; None means `gain`.
        conv: what of a convolution is orthogonal: its flattened "kernel", or with "delta" the operator.
    """

    name: ClassVar[str] = "orthogonal-init"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Orthogonal initialisation",
        source="Saxe, McClelland and Ganguli, arXiv:1312.6120, section 3; arXiv:2606.09762, appendix B.1",
        controls="every singular value at the start, none afterwards",
        family="isometry",
    )

    gain: float = 1.0
    head_gain: float | None = None
    conv: Literal["kernel", "delta"] = "kernel"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "gain")
        at_least(self, 0.0, "head_gain")

    def prepare(self, model: nn.Module) -> nn.Module:
        """Draw the weights of the network anew, in place; whoever draws it again later does so alike."""
        draw = functools.partial(isometric_init_, gain=self.gain, head_gain=self.head_gain, conv=self.conv)
        rebuild = getattr(model, "rebuild", None)
        if rebuild is not None:
            model.rebuild = functools.partial(_rebuilt, rebuild, draw)  # type: ignore[assignment]
        return draw(model)


def _rebuilt(rebuild: Callable[[], nn.Module], draw: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A network built as before and drawn as this method draws it."""
    return draw(rebuild())
