"""Methods that add a function of the parameters to the loss."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast.methods._protocol import Inputs, Method, StepContext
from isoplast.methods._tools._checks import at_least
from isoplast.methods._tools._penalised import penalised


@dataclasses.dataclass(frozen=True)
class Regulariser(Method):
    """Adds a function of the regularised parameters to the loss; none at strength 0."""

    strength: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0.0, "strength")

    def penalty(self, model: nn.Module, inputs: Inputs) -> Tensor | None:
        """Return what is added to the loss."""
        return None if self.strength == 0 else self.regulariser(penalised(model))

    def regulariser(self, parameters: dict[str, nn.Parameter]) -> Tensor:
        """Return the strength times the function of these parameters, shape ()."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class TargetRegulariser(Regulariser):
    """A regulariser towards a target, `state["target"]`, that is made anew every `every` steps."""

    every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "every")

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Look at the initial network, and make the first target."""
        if self.strength > 0:
            self.look(model)
            self.state["target"] = self.target(penalised(model))

    def after_step(self, step: StepContext) -> None:
        """Make another target when it is time."""
        if self.strength > 0 and step.step % self.every == 0:
            self.state["target"] = self.target(penalised(step.model))

    def look(self, model: nn.Module) -> None:
        """Put what the targets are made from into the state."""
        raise NotImplementedError

    def target(self, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """Return a target for each of these parameters."""
        raise NotImplementedError
