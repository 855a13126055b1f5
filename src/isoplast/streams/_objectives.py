"""How the loss and the score of a task are made of a network's outputs and the targets."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss


@dataclasses.dataclass(frozen=True)
class Objective(ABC):
    """What is minimised on a task, and what counts.

    Attributes:
        metric: name of the score, one of `isoplast.study.METRICS`.
        higher_is_better: in which direction it is good.
        centred: whether adding one number to all outputs of a sample changes nothing.
    """

    metric: ClassVar[str]
    higher_is_better: ClassVar[bool]
    centred: ClassVar[bool]

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many outputs a network needs."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch, shape (), differentiable."""

    @abstractmethod
    def totals(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The losses and the scores of a batch, each summed over its predictions, shape (), float64."""

    def count(self, targets: Tensor) -> int:
        """How many predictions these targets are for: one each sample."""
        return len(targets)

    @abstractmethod
    def chance(self, targets: Tensor) -> float:
        """The score of a guess that takes all outputs in use for equally likely; for numbers, of their mean.

        Who knows how often each class or byte occurs may score better without the inputs, too.
        """

    @abstractmethod
    def check(self, targets: Tensor) -> str:
        """What is wrong with targets, "" if nothing."""


@dataclasses.dataclass(frozen=True)
class Classification(Objective):
    r"""Cross-entropy, and the share of the inputs that are classified right.

    .. math:: L = -\frac1n \sum_i \log p_{y_i}(x_i), \qquad
              \text{accuracy} = \frac1n \sum_i [\arg\max p(x_i) = y_i]

    Targets are int64 (n,), chance is 1 / classes.

    Args:
        classes: number of classes, >= 2.
        active: the classes that may occur, ascending; None: all. The outputs of others are masked: they have
            probability 0 and get no gradient, and chance is one in so many.
    """

    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    centred: ClassVar[bool] = True

    classes: int
    active: tuple[int, ...] | None = None

    @property
    def outputs(self) -> int:
        """One for each class."""
        return self.classes

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy."""
        return cross_entropy(self._visible(outputs), targets)

    def _visible(self, outputs: Tensor) -> Tensor:
        if self.active is None:
            return outputs
        hidden = torch.ones(self.classes, dtype=torch.bool, device=outputs.device)
        hidden[list(self.active)] = False
        return outputs.masked_fill(hidden, -math.inf)

    def totals(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Summed cross-entropies, and how many are right."""
        outputs = self._visible(outputs)
        losses = cross_entropy(outputs, targets, reduction="sum").double()
        return losses, (outputs.argmax(1) == targets).sum().double()

    def chance(self, targets: Tensor) -> float:
        """1 / classes."""
        return 1 / len(self.active or range(self.classes))

    def check(self, targets: Tensor) -> str:
        """Targets must be class numbers."""
        if targets.dim() != 1 or targets.is_floating_point():
            return f"targets are {_kind(targets)}: classes are whole numbers of shape (n,)"
        if len(targets) and not (int(targets.min()) >= 0 and int(targets.max()) < self.classes):
            return f"targets go from {int(targets.min())} to {int(targets.max())}, for {self.classes} classes"
        found = set(targets.tolist()) if self.active is not None else set()
        if self.active is not None and not found <= set(self.active):
            return f"targets are {sorted(found)}, and the active classes are {list(self.active)}"
        return ""


@dataclasses.dataclass(frozen=True)
class Regression(Objective):
    r"""The mean squared error, which is also the score.

    .. math:: L = \frac1{nk} \sum_{i,j} (f_j(x_i) - y_{ij})^2

    Targets are floating, shape (n, k). The best guess without inputs is their mean: its error, the variance
    of the targets, stands where classification has chance.

    Args:
        dimensions: k, numbers to predict for a sample, >= 1.
    """

    metric: ClassVar[str] = "mean_squared_error"
    higher_is_better: ClassVar[bool] = False
    centred: ClassVar[bool] = False

    dimensions: int = 1

    @property
    def outputs(self) -> int:
        """One for each number."""
        return self.dimensions

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean squared error."""
        return mse_loss(outputs, targets)

    def totals(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Summed squared errors, twice: the loss is the score."""
        errors = (outputs.double() - targets.double()).square().mean(1).sum()
        return errors, errors

    def chance(self, targets: Tensor) -> float:
        """The mean variance of the targets."""
        return float(targets.double().var(0, correction=0).mean())

    def check(self, targets: Tensor) -> str:
        """Targets must be (n, dimensions) and finite."""
        wanted = (len(targets), self.dimensions)
        if not targets.is_floating_point() or tuple(targets.shape) != wanted:
            return f"targets are {_kind(targets)}: give floating numbers of shape {wanted}"
        return "" if bool(targets.isfinite().all()) else "some targets are not finite"


@dataclasses.dataclass(frozen=True)
class Language(Objective):
    r"""Cross-entropy of the next token, and the same in bits for each token.

    .. math:: \text{bits per byte} = \frac{1}{n T \ln 2} \sum_{i,t} -\log p(y_{it} | x_{i,\le t})

    Outputs are (n, T, vocabulary), targets int64 (n, T). With bytes as tokens the score is bits per byte, and
    8 is chance.

    Args:
        vocabulary: number of tokens, >= 2; 256 for bytes.
    """

    metric: ClassVar[str] = "bits_per_byte"
    higher_is_better: ClassVar[bool] = False
    centred: ClassVar[bool] = True

    vocabulary: int = 256

    @property
    def outputs(self) -> int:
        """One for each token."""
        return self.vocabulary

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy over all tokens."""
        return cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def totals(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Summed cross-entropies in nats and in bits."""
        nats = cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="sum").double()
        return nats, nats / math.log(2)

    def count(self, targets: Tensor) -> int:
        """One prediction for each token."""
        return targets.numel()

    def chance(self, targets: Tensor) -> float:
        """The bits of a token where all are equally likely."""
        return math.log2(self.vocabulary)

    def check(self, targets: Tensor) -> str:
        """Targets must be tokens."""
        if targets.dim() != 2 or targets.is_floating_point():
            return f"targets are {_kind(targets)}: tokens are whole numbers of shape (n, T)"
        if targets.numel() and not (int(targets.min()) >= 0 and int(targets.max()) < self.vocabulary):
            return f"tokens go from {int(targets.min())} to {int(targets.max())}, of {self.vocabulary}"
        return ""


def _kind(targets: Tensor) -> str:
    return f"{str(targets.dtype).removeprefix('torch.')} of shape {tuple(targets.shape)}"
