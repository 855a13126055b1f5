"""The settings of the isometry step, and the report that all methods with that step give."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Method
from isoplast.methods._tools._checks import at_least, positive
from isoplast.optim import DEFAULT_ISOMETRY, attach, isometry_report


@dataclasses.dataclass(frozen=True)
class IsometryStep(Method):
    """A method whose optimizer does the isometry step before its own; see `isoplast.attach`."""

    isometry: float | None = None
    isometry_time: float | None = None
    isometry_every: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.isometry is not None and self.isometry_time is not None:
            raise IsoplastError(
                f"method {self.name} got isometry={self.isometry} and isometry_time={self.isometry_time}: "
                "they set the same strength, give one of them"
            )
        if self.isometry is None and self.isometry_time is None:
            object.__setattr__(self, "isometry", DEFAULT_ISOMETRY)
        at_least(self, 0.0, "isometry")
        positive(self, "isometry_time")
        if self.isometry_every != "auto":
            at_least(self, 1, "isometry_every")

    def report(self, optimizer: Optimizer, steps: int) -> list[str]:
        """Return what is under isometry, and a warning if the run is too short for its strength."""
        found = isometry_report(optimizer.param_groups)
        warning = found.warning(steps) if self.isometry != 0 else None
        return [str(found)] if warning is None else [str(found), f"warning: {warning}"]

    def _with_isometry(self, optimizer: Optimizer) -> Optimizer:
        """Return the optimizer, which does the isometry step before its own from now on."""
        settings: dict[str, Any] = {"isometry_time": self.isometry_time, "every": self.isometry_every}
        attach(optimizer, self.isometry, **settings)
        return optimizer
