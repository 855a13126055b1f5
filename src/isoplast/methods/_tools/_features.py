"""What layers are fed in the forward pass of training, for penalties on features."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Method


class Tap:
    """A forward pre-hook that keeps the last input of its layer in training mode, with its graph.

    A copy of the layer gets a tap of its own, which is empty and which no method reads.
    """

    def __init__(self) -> None:
        self.found: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Keep the input."""
        if module.training and inputs:
            self.found = inputs[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tap:
        return Tap()

    def __reduce__(self) -> tuple[type[Tap], tuple[()]]:
        return Tap, ()


@dataclasses.dataclass(frozen=True)
class FeatureMethod(Method):
    """A method that penalises what some layers are fed in the forward pass of the task loss.

    Attributes:
        taps: the hooks on these layers.
    """

    taps: list[Tap] = dataclasses.field(default_factory=list, init=False, repr=False, compare=False)

    def tap(self, layers: Iterable[nn.Module]) -> None:
        """Listen to these layers from now on."""
        for layer in layers:
            tap = Tap()
            self.taps.append(tap)
            self.handles.append(layer.register_forward_pre_hook(tap))

    def features(self) -> list[Tensor]:
        """What the layers were fed since the last call: each of shape (rows, features).

        Positions of images and tokens of sequences are rows.

        Raises:
            IsoplastError: if the forward pass did not come by.
        """
        found = [tap.found for tap in self.taps if tap.found is not None]
        for tap in self.taps:
            tap.found = None
        if not found:
            raise IsoplastError(
                f"method {self.name} saw no features: call model.train() before the forward pass, and in a "
                f"combination put {self.name} after the methods that replace layers"
            )
        return [_rows(features) for features in found]

    def release(self) -> None:
        """Take the hooks off the model."""
        super().release()
        self.taps.clear()


def _rows(features: Tensor) -> Tensor:
    if features.ndim == 4:  # images (n, channels, height, width): Linear layers have features last
        features = features.movedim(1, -1)
    return features.flatten(0, -2)
