"""What every network specification has in common, and the registry behind `build`."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import nn

from isoplast._core.checks import positive
from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.registry import Registry
from isoplast.nn.networks._choices import ACTIVATIONS, INITS, LINEARS, NORMALIZATIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetSpec(ABC):
    """A network without its input and output sizes: frozen, typed, hashable. Its fields are its settings.

    Attributes:
        name: what a study calls it; the name of the class where it says nothing.

    Example:
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class Shallow(NetSpec):
        ...     width: int = 32
        ...     def build(self, input_shape, classes):
        ...         size = math.prod(input_shape)
        ...         layers = nn.Linear(size, self.width), nn.ReLU(), nn.Linear(self.width, classes)
        ...         return nn.Sequential(nn.Flatten(), *layers)
        >>> len(Shallow(width=8).make((4, 4), 10))
        4
    """

    name: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    @abstractmethod
    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the freshly initialised network; draws from torch's global generator.

        Args:
            input_shape: shape of one input without the batch.
            classes: number of outputs, >= 1.
        """

    def make(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """Check the sizes and build; the function `rebuild` of the network makes another one like it.

        Raises:
            IsoplastError: for sizes that no network, or not this one, can take.
        """
        if classes < 1:
            raise IsoplastError(f"classes is {classes}: a network needs at least one output")
        if not input_shape or any(size < 1 for size in input_shape):
            raise IsoplastError(f"input_shape is {tuple(input_shape)}: give the positive sizes of one input")
        shape = tuple(input_shape)
        network = self.build(shape, classes)
        # How to draw it anew: the plasticity probe compares with a fresh twin.
        network.rebuild = functools.partial(self.build, shape, classes)  # type: ignore[assignment]
        return network


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayeredSpec(NetSpec):
    """A network of layers in a common style.

    Args:
        activation: name of the hidden nonlinearity, one of `isoplast.nn.ACTIVATIONS`.
        normalization: None, "layernorm" or "batchnorm"; in front of every hidden nonlinearity, in
            transformers in front of every branch.
        linear: "plain", or "isometric" for hard orthogonality by Newton-Schulz. The head stays plain.
        init: "orthogonal" (biases zero), "delta" (conv kernels delta-orthogonal, else orthogonal) or "torch".
        gain: factor of the orthogonal initialisation of the hidden layers, > 0. The paper uses 1.
        head_gain: the same for the head; None means `gain`.
        bias: whether the layers have biases.
    """

    activation: str = "relu"
    normalization: str | None = None
    linear: str = "plain"
    init: str = "orthogonal"
    gain: float = 1.0
    head_gain: float | None = None
    bias: bool = True

    def __post_init__(self) -> None:
        _choose("activation", self.activation, ACTIVATIONS)
        _choose("linear kind", self.linear, LINEARS)
        _choose("initialisation", self.init, INITS)
        if self.normalization is not None:
            _choose("normalization", self.normalization, NORMALIZATIONS)
        positive(self, f"network {self.name}", "gain")
        if self.linear == "isometric" and self.gain != 1.0:
            raise IsoplastError(f"gain is {self.gain}, but isometric layers have gain 1: leave it out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualSpec(LayeredSpec):
    """A network of residual blocks x + scale * f(x).

    Args:
        branch_scale: the scale, > 0. None means 1 where the branches are normalised, else B^(-1/2) with B
            branches: every weight can then stay an isometry while the signal's variance grows by e at most.
        others: see `LayeredSpec`.
    """

    branch_scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.branch_scale is not None:
            positive(self, f"network {self.name}", "branch_scale")

    def scale(self, branches: int) -> float:
        """Return the factor of each of `branches` residual branches."""
        if self.branch_scale is not None:
            return self.branch_scale
        return 1.0 if self.normalization is not None else branches**-0.5


NETS: Registry[NetSpec] = Registry("network", NetSpec, "isoplast.nets")
register = NETS.register


def names() -> list[str]:
    """List the networks that `build` knows.

    Example:
        >>> "mlp" in names()
        True
    """
    return NETS.names()


def spec(name: str, **settings: Any) -> NetSpec:
    """Return the specification of the network `name` with the given settings.

    Args:
        name: one of `names()`, an entry point of the group `isoplast.nets`, or "package.module:Name".
        settings: fields of the specification; what is left out keeps its default.

    Raises:
        IsoplastError: for an unknown name, an unknown setting or a value out of range.

    Example:
        >>> spec("mlp", width=64).depth
        3
    """
    kind = NETS.find(name)
    known = [field.name for field in dataclasses.fields(kind)]
    for setting in settings:
        if setting not in known:
            raise unknown(f"setting of network {name}", setting, known)
    return kind(**settings)


def build(name: str, *, input_shape: tuple[int, ...], classes: int, **settings: Any) -> nn.Module:
    """Build a network of the benchmarks from its name and settings.

    The output layer is the attribute `head`; every hidden nonlinearity is a module of its own. The function
    `rebuild` of the network makes another one like it, freshly initialised.

    Args:
        name: one of `names()`.
        input_shape: shape of one input without the batch, e.g. (3, 32, 32) or (64,).
        classes: number of outputs, >= 1.
        settings: fields of the specification (`spec(name)` shows them).

    Returns:
        The network, initialised from torch's global generator.

    Raises:
        IsoplastError: for an unknown name, an unknown setting, or sizes the network cannot take.

    Example:
        >>> net = build("mlp", input_shape=(64,), classes=10, width=128)
        >>> [name for name, _ in net.named_parameters()][:2]
        ['layers.0.weight', 'layers.0.bias']
    """
    return spec(name, **settings).make(tuple(input_shape), classes)


def _choose(kind: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise unknown(kind, value, known)


def image_shape(owner: NetSpec, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (channels, height, width), or say that the network needs images."""
    if len(input_shape) != 3:
        raise IsoplastError(f"network {owner.name} needs images (channels, height, width), got {input_shape}")
    return input_shape
