"""The inputs of layers in the forward pass of training, for penalties on features."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Method
from isoplast.methods._tools._tensors import tensors_in


class Tap:
    """A forward pre-hook that keeps the last input of its layer in training mode, with its graph.

    A copy of the layer gets a tap of its own, which is empty and which no method reads.
    """

    def __init__(self) -> None:
        self.found: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the input."""
        if module.training:
            self.found = next(tensors_in((args, kwargs)), None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tap:
        return Tap()

    def __reduce__(self) -> tuple[type[Tap], tuple[()]]:
        return Tap, ()


@dataclasses.dataclass(frozen=True)
class FeatureMethod(Method):
    """A method that penalises the inputs of some layers in the forward pass of the task loss.

    Attributes:
        taps: the hooks on these layers.
    """

    taps: list[Tap] = dataclasses.field(default_factory=list, init=False, repr=False, compare=False)

    def tap(self, layers: Iterable[nn.Module]) -> None:
        """Watch these layers from now on."""
        for layer in layers:
            tap = Tap()
            self.taps.append(tap)
            self.handles.append(layer.register_forward_pre_hook(tap, with_kwargs=True))

    def features(self) -> list[Tensor]:
        """The last inputs of the layers since the last call: each of shape (rows, features).

        Positions of images and tokens of sequences are rows.

        Raises:
            IsoplastError: if no layer was called.
        """
        found = [tap.found for tap in self.taps if tap.found is not None]
        for tap in self.taps:
            tap.found = None
        if not found:
            raise IsoplastError(
                f"method {self.name} saw no features: compute the loss with the model of this training, in "
                "training mode"
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
