"""`check_method` finds each broken promise, and passes a method that keeps them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.methods import Inputs, Method, MethodInfo, StepContext, TaskContext
from isoplast.testing import NETWORKS, Network, check_method


@dataclasses.dataclass(frozen=True)
class Decay(Method):
    """Adam on weights that shrink after every step.

    Args:
        strength: by which share of them, >= 0.
    """

    name: ClassVar[str] = "decay"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Decay", source="2026", controls="nothing", strength="strength"
    )

    strength: float = 0.01

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Shrink."""
        for parameter in step.model.parameters():
            parameter.mul_(1 - self.strength)


def info(**changes: Any) -> MethodInfo:
    return dataclasses.replace(MethodInfo(title="Bad", source="2026", controls="nothing"), **changes)


def test_a_good_method_passes_everywhere() -> None:
    check_method(Decay())
    check_method("redo+layernorm", networks=["agent"])


def test_a_network_of_ones_own_takes_part() -> None:
    mine = Network(lambda: nn.Linear(3, 2), lambda generator: torch.randn(4, 3, generator=generator))
    check_method(Decay(), networks={"mine": mine})
    with pytest.raises(AssertionError, match="takes none of the networks: mine: method redo finds no unit"):
        check_method("redo", networks={"mine": mine})


class Unbuffered(Decay):
    name = "bad"


# Each of these breaks one promise.


@dataclasses.dataclass(frozen=True)
class NoTitle(Method):
    """A method."""

    name = "bad"
    info = info(title="")


@dataclasses.dataclass(frozen=True)
class Unexplained(Method):
    """A method."""

    name = "bad"
    info = info()
    every: int = 1


@dataclasses.dataclass(frozen=True)
class SecretlyTold(Method):
    """A method."""

    name = "bad"
    info = info()

    def on_task(self, task: TaskContext) -> None:
        """Act."""


@dataclasses.dataclass(frozen=True)
class NothingToTell(Method):
    """A method."""

    name = "bad"
    info = info(needs_task_boundaries=True)


@dataclasses.dataclass(frozen=True)
class Unchecked(Method):
    """A method.

    Args:
        every: a number.
    """

    name = "bad"
    info = info()
    every: int = 1

    def __post_init__(self) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Forgetful(Method):
    """A method that counts where no checkpoint sees it."""

    name = "bad"
    info = info()
    seen: list[int] = dataclasses.field(default_factory=list, init=False, compare=False)

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Move by the count."""
        self.seen.append(step.step)
        next(iter(step.model.parameters())).add_(1e-3 * len(self.seen))


@dataclasses.dataclass(frozen=True)
class Replacing(Method):
    """A method that puts new parameters in the place of old ones."""

    name = "bad"
    info = info()

    def after_step(self, step: StepContext) -> None:
        """Replace."""
        for module in step.model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    setattr(module, name, nn.Parameter(parameter.detach().clone()))


@dataclasses.dataclass(frozen=True)
class Disowning(Method):
    """A method whose optimizer leaves a parameter out."""

    name = "bad"
    info = info()

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return it."""
        return torch.optim.Adam(list(model.parameters())[1:], lr=lr)


@dataclasses.dataclass(frozen=True)
class Reading(Method):
    """A method that reads inputs without saying so."""

    name = "bad"
    info = info()

    def penalty(self, model: nn.Module, inputs: Inputs) -> Tensor | None:
        """Penalise only where there are inputs."""
        return None if inputs is None else sum(p.square().sum() for p in model.parameters())


class _Hook:
    def __call__(self, module: nn.Module, inputs: Any) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Clinging(Method):
    """A method that leaves its hooks behind."""

    name = "bad"
    info = info()

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Hook."""
        model.register_forward_pre_hook(_Hook())


@dataclasses.dataclass(frozen=True)
class Hoarding(Method):
    """A method that keeps the network."""

    name = "bad"
    info = info()
    kept: list[Any] = dataclasses.field(default_factory=list, init=False, compare=False)

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Keep."""
        self.kept.append({"model": (model,)})


@dataclasses.dataclass(frozen=True)
class Disturbing(Method):
    """A method whose function does not stay."""

    name = "bad"
    info = info(keeps_function=True)

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Move everything."""
        for parameter in step.model.parameters():
            parameter.mul_(1.01)


@dataclasses.dataclass(frozen=True)
class Restless(Method):
    """A method whose evaluation leaves traces."""

    name = "bad"
    info = info()

    def evaluated(self, model: nn.Module, optimizer: Optimizer) -> Any:
        """Yield the network, a little moved."""
        with torch.no_grad():
            next(iter(model.parameters())).add_(1e-3)
        return super().evaluated(model, optimizer)


@dataclasses.dataclass(frozen=True)
class Idle(Method):
    """A method whose optimizer never steps."""

    name = "bad"
    info = info()

    def step(self, optimizer: Optimizer, closure: Callable[[], Tensor]) -> Tensor:
        """Compute alone."""
        return closure()


@dataclasses.dataclass(frozen=True)
class Strong(Decay):
    """A method of some strength at 0 too.

    Args:
        strength: of it.
    """

    name = "bad"

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Shrink all the same."""
        for parameter in step.model.parameters():
            parameter.mul_(0.99 - self.strength)


@dataclasses.dataclass(frozen=True)
class Chaotic(Method):
    """A method with random numbers of its own."""

    name = "bad"
    info = info()
    generator: ClassVar[torch.Generator] = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Shake."""
        for parameter in step.model.parameters():
            parameter.add_(1e-3 * torch.randn(parameter.shape, generator=self.generator))


@dataclasses.dataclass(frozen=True)
class Blunt(Method):
    """A method that puts all modules into evaluation mode."""

    name = "bad"
    info = info()

    def evaluated(self, model: nn.Module, optimizer: Optimizer) -> Any:
        """Yield it so."""
        model.eval()
        return super().evaluated(model, optimizer)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (NoTitle, "says no title in its metadata"),
        (Unexplained, r"does not explain its settings \['every'\] under Args: in its docstring"),
        (Unbuffered, r"must be decorated with @dataclasses.dataclass\(frozen=True\)"),
        (SecretlyTold, "overrides on_task, so its metadata must say needs_task_boundaries=True"),
        (NothingToTell, "says that it needs task boundaries, and has no on_task"),
        (Unchecked, r"takes \[\[\]\] for every: call super"),
        (Forgetful, "goes on from a checkpoint to other bits in .* on network 'mlp'"),
        (Replacing, "replaces parameters by others while it trains"),
        (Disowning, r"leaves \['0.weight'\] to no optimizer"),
        (Reading, "comes to other bits in .* without being told of tasks and inputs"),
        (Clinging, r"leaves hooks on \['the network'\] after release"),
        (Hoarding, r"still holds modules in \['kept'\] after release"),
        (Disturbing, "changes the outputs in after_step: by "),
        (Restless, r"changes \['0.weight'\] by an evaluation"),
        (Idle, r"does not train \['0.weight', "),
        (Strong, "is not adam at strength 0: other bits in "),
        (Chaotic, "goes on from a checkpoint to other bits"),
        (Blunt, "changes training and evaluation modes"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_promise_is_found(bad: type[Method], message: str) -> None:
    with pytest.raises(AssertionError, match=f"method bad {message}"):
        check_method(bad(), networks=["mlp"])


def test_what_has_no_name_or_metadata_is_told_so() -> None:
    class Nameless(Method):
        """A method."""

    with pytest.raises(IsoplastError, match=r"method class Nameless has no name: set `name: Class"):
        Nameless()
    Nameless.name = "nameless"
    with pytest.raises(IsoplastError, match="method class Nameless has no info: set `info"):
        Nameless()


def test_networks_are_named() -> None:
    with pytest.raises(IsoplastError, match="unknown network 'mpl': did you mean 'mlp'"):
        check_method(Decay(), networks=["mpl"])
    assert {"mlp", "cnn", "gpt", "agent", "shared", "tied"} == set(NETWORKS)
