"""Images that turn, fade, brighten or blur, a little more with every task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from isoplast._core.checks import at_least, positive
from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset
from isoplast.streams._base import Score, Stream, StreamInfo, TaskSequence, register
from isoplast.streams._numbers import sine, uniform
from isoplast.streams._views import Task

# Of a whole swing: half a turn, contrast down to a tenth, three standard deviations, eight passes.
_DEGREES, _FADED, _BRIGHTER, _PASSES = 180.0, 0.9, 3.0, 8


@register
@dataclass(frozen=True, kw_only=True)
class InputDrift(Stream):
    r"""The same images under light or from an angle that changes from task to task.

    The strength swings between 0 and 1 and back once in `period` tasks, and begins where the seed says:

    .. math:: s_t = 1 - |1 - 2 ((t / T + \phi) \bmod 1)|

    rotation by :math:`180 a s_t` degrees to the left (bilinear, edges repeated), contrast
    :math:`x (1 - 0.9 a s_t)`, brightness :math:`x + 3 a s_t` (in standard deviations), or blur by
    :math:`\mathrm{round}(8 a s_t)` passes of (1, 2, 1) / 4 along both axes.

    Args:
        kind: "rotation", "contrast", "brightness" or "blur".
        amount: a, how far the swing goes, > 0; at most 1 for contrast.
        period: T, tasks of a whole swing, >= 2.
        others: see `Stream`.
    """

    name: ClassVar[str] = "input-drift"
    scored: ClassVar[Score] = "held-out"
    interpolates: ClassVar[bool] = True
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="tracking of inputs that change while their meaning stays",
        chance="that of the data: 1 / classes",
        published="rotated MNIST as a stream: arXiv:1706.08840; the corruptions: arXiv:1903.12261",
        reveals="when a step of the drift comes; not its size",
    )

    kind: Literal["rotation", "contrast", "brightness", "blur"] = "rotation"
    amount: float = 1.0
    period: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, f"stream {self.name}", "amount")
        at_least(self, f"stream {self.name}", 2, "period")
        if self.kind == "contrast" and self.amount > 1:
            raise IsoplastError(f"amount of stream {self.name} is {self.amount}: at most 1 for contrast")

    def check_data(self, data: Dataset | None) -> None:
        """Data must be images of numbers."""
        assert data is not None
        if data.inputs.ndim != 4 or not data.inputs.is_floating_point():
            raise IsoplastError(
                f"stream {self.name} changes images (channels, height, width), and inputs of data "
                f"{data.name!r} are {tuple(data.inputs.shape[1:])}"
            )

    def strength(self, source: TaskSequence, index: int) -> float:
        """s_t, in [0, 1]."""
        phase = float(uniform(source.bits(0, 1))[0])
        return 1 - abs(1 - 2 * ((index / self.period + phase) % 1))

    def make_task(self, source: TaskSequence, index: int) -> Task:
        """The images as they are seen now."""
        data = source.data
        assert data is not None
        level = self.amount * self.strength(source, index)
        if data.test is None:
            return Task(index, self._changed(data.inputs, level), data.targets)
        held_out = self._changed(data.test.inputs, level), data.test.targets
        return Task(index, self._changed(data.inputs, level), data.targets, *held_out)

    def _changed(self, images: Tensor, level: float) -> Tensor:
        if self.kind == "contrast":
            return images * (1 - _FADED * level)
        if self.kind == "brightness":
            return images + _BRIGHTER * level
        if self.kind == "rotation":
            return rotated(images, _DEGREES * level)
        for _ in range(round(_PASSES * level)):
            images = _smoothed(_smoothed(images, 2), 3)
        return images


def rotated(images: Tensor, degrees: float) -> Tensor:
    """Images (n, c, h, w) turned to the left about their centre; the same bits on every machine."""
    height, width = images.shape[-2:]
    radians = np.array([degrees, degrees + 90]) * (math.pi / 180)
    sin, cos = sine(radians).tolist()
    rows = np.arange(height)[:, None] - (height - 1) / 2
    columns = np.arange(width)[None, :] - (width - 1) / 2
    y = (columns * sin + rows * cos) + (height - 1) / 2
    x = (columns * cos - rows * sin) + (width - 1) / 2
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    down, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    dy, dx = y - top, x - left
    corners = (
        (top, left, (1 - dy) * (1 - dx)),
        (top, right, (1 - dy) * dx),
        (down, left, dy * (1 - dx)),
        (down, right, dy * dx),
    )
    found = torch.zeros_like(images)
    for row, column, weight in corners:
        found = found + images[..., row, column] * torch.from_numpy(weight.astype(np.float32))
    return found


def _smoothed(images: Tensor, axis: int) -> Tensor:
    """(1, 2, 1) / 4 along an axis, edges repeated."""
    sides = (0, 0, 1, 1) if axis == 2 else (1, 1, 0, 0)
    wide = pad(images, sides, mode="replicate")
    size = images.shape[axis]
    before, here, after = (wide.narrow(axis, start, size) for start in range(3))
    return (before + after) * 0.25 + here * 0.5
