"""What every network specification has in common, and the registry behind `build`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar

from torch import nn

from isoplast._core.errors import IsoplastError, unknown
from isoplast.nn.networks._choices import ACTIVATIONS, INITS, LINEARS, NORMALIZATIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetSpec:
    """A network without its input and output sizes: frozen, typed, hashable.

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

    name: ClassVar[str]

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
        positive(self, "gain")
        if self.linear == "isometric" and self.gain != 1.0:
            raise IsoplastError(f"gain is {self.gain}, but isometric layers have gain 1: leave it out")

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the freshly initialised network; draws from torch's global generator."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualSpec(NetSpec):
    """A network of residual blocks x + scale * f(x).

    Args:
        branch_scale: the scale, > 0. None means 1 where the branches are normalised, else B^(-1/2) with B
            branches: every weight can then stay an isometry while the signal's variance grows by e at most.
        others: see `NetSpec`.
    """

    branch_scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.branch_scale is not None:
            positive(self, "branch_scale")

    def scale(self, branches: int) -> float:
        """Return the factor of each of `branches` residual branches."""
        if self.branch_scale is not None:
            return self.branch_scale
        return 1.0 if self.normalization is not None else branches**-0.5


_SPECS: dict[str, type[NetSpec]] = {}
Spec = TypeVar("Spec", bound=type[NetSpec])


def register(spec: Spec) -> Spec:
    """Class decorator: makes a specification known to `build` under its `name`."""
    _SPECS[spec.name] = spec
    return spec


def names() -> list[str]:
    """List the networks that `build` knows.

    Example:
        >>> "mlp" in names()
        True
    """
    return sorted(_SPECS)


def spec(name: str, **options: Any) -> NetSpec:
    """Return the specification of the network `name` with the given options.

    Args:
        name: one of `names()`.
        options: fields of the specification; what is left out keeps its default.

    Raises:
        IsoplastError: for an unknown name, an unknown option or a value out of range.

    Example:
        >>> spec("mlp", width=64).depth
        3
    """
    if name not in _SPECS:
        raise unknown("network", name, _SPECS)
    kind = _SPECS[name]
    known = [field.name for field in dataclasses.fields(kind)]
    for option in options:
        if option not in known:
            raise unknown(f"option of network {name}", option, known)
    return kind(**options)


def build(name: str, *, input_shape: tuple[int, ...], classes: int, **options: Any) -> nn.Module:
    """Build a network of the benchmarks from its name and options.

    The output layer is the attribute `head`; every hidden nonlinearity is a module of its own. The function
    `rebuild` of the network makes another one like it, freshly initialised.

    Args:
        name: one of `names()`.
        input_shape: shape of one input without the batch, e.g. (3, 32, 32) or (64,).
        classes: number of outputs, >= 1.
        options: fields of the specification (`spec(name)` shows them).

    Returns:
        The network, initialised from torch's global generator.

    Raises:
        IsoplastError: for an unknown name, an unknown option, or sizes the network cannot take.

    Example:
        >>> net = build("mlp", input_shape=(64,), classes=10, width=128)
        >>> [name for name, _ in net.named_parameters()][:2]
        ['layers.0.weight', 'layers.0.bias']
    """
    chosen = spec(name, **options)
    if classes < 1:
        raise IsoplastError(f"classes is {classes}: a network needs at least one output")
    if not input_shape or any(size < 1 for size in input_shape):
        raise IsoplastError(f"input_shape is {tuple(input_shape)}: give the positive sizes of one input")
    shape = tuple(input_shape)
    network = chosen.build(shape, classes)
    # How to draw it anew: the plasticity probe compares with a fresh twin.
    network.rebuild = functools.partial(chosen.build, shape, classes)  # type: ignore[assignment]
    return network


def _choose(kind: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise unknown(kind, value, known)


def positive(owner: NetSpec, *fields: str) -> None:
    """Raise unless every named field of the specification is positive."""
    for field in fields:
        value = getattr(owner, field)
        if not value > 0:
            raise IsoplastError(f"{field} of network {owner.name} is {value!r}: it must be positive")


def image_shape(owner: NetSpec, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (channels, height, width), or say that the network needs images."""
    if len(input_shape) != 3:
        raise IsoplastError(f"network {owner.name} needs images (channels, height, width), got {input_shape}")
    return input_shape
