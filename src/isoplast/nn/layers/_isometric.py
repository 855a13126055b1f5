"""Layers whose weight is orthogonal by construction."""

from __future__ import annotations

import copy
import dataclasses
import functools
import weakref
from typing import Any, Literal, TypeVar

import torch
import torch.fx
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

from isoplast._core.errors import IsoplastError
from isoplast.isometry import matrix_view, polar_factor
from isoplast.nn.layers._orthogonalize import AttachFactor, Iterates, orthogonal_factor, orthogonalize


@dataclasses.dataclass
class _Cache:
    """The factor of one version of a weight; `attached` is the same values with a graph."""

    weight: Tensor
    version: int
    address: int
    factor: Tensor
    iterates: Iterates | None
    attached: Tensor | None = None

    def fits(self, weight: Tensor) -> bool:
        return self.weight is weight and self.version == weight._version and self.address == weight.data_ptr()


class OrthogonalWeight(nn.Module):
    """What the isometric layers share: the raw weight, its orthogonal factor, and when to compute it.

    The factor is computed once per version of the raw weight, which in a training loop means once per
    optimizer step, and shared by all forward passes until the weight changes. All of them go through one
    node of the graph, so a backward over several forwards runs the iterations backwards once, and one
    after another (gradient accumulation) each time again. In eval mode nothing but the factor is kept.

    A change is noticed by the tensor's version counter, which every in-place operation and every step of
    a torch optimizer raises. After writing to `weight.data`, which nobody can see, call `train()` or
    `eval()`: both forget the factor.
    """

    weight: Tensor
    iterations: int
    reorthogonalize_every: int

    def _prepare(self, iterations: int, reorthogonalize_every: int) -> None:
        for name, value in (("iterations", iterations), ("reorthogonalize_every", reorthogonalize_every)):
            if value < 1:
                raise IsoplastError(f"{name} of {type(self).__name__} is {value}: it must be at least 1")
        self.iterations = iterations
        self.reorthogonalize_every = reorthogonalize_every
        self.training_steps = 0
        self._cache: _Cache | None = None
        self._register()

    def _register(self) -> None:
        # AdamO looks for this mark: a penalty on the raw weight would fight the orthogonalisation.
        self.weight.hard_isometry = True  # type: ignore[attr-defined]
        _watch_optimizers()[self.weight] = weakref.ref(self)

    def effective_weight(self) -> Tensor:
        """Return the weight the layer applies: orthogonal, shaped like `weight`, with a graph if enabled."""
        weight = self.weight
        if _in_transform(weight):
            return kernel_factor(weight, self.iterations)
        cache = self._fresh_cache()
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return cache.factor.view(weight.shape)
        if cache.attached is None:
            arguments = (matrix_view(weight), cache.factor, cache.iterates, self.iterations)
            factor = AttachFactor.apply(*arguments)  # type: ignore[no-untyped-call]
            cache.attached = factor.view(weight.shape)
        return cache.attached

    def _fresh_cache(self) -> _Cache:
        weight, cache = self.weight, self._cache
        differentiable = torch.is_grad_enabled() and weight.requires_grad
        if cache is not None and cache.fits(weight) and (cache.iterates is not None or not differentiable):
            return cache
        if cache is None or cache.weight is not weight:
            self._register()
        keep = differentiable or self.training
        # Inference tensors could not be used by a later training step.
        with torch.inference_mode(False):
            factor, iterates = orthogonalize(matrix_view(weight.detach()), self.iterations, keep=keep)
        self._cache = _Cache(weight, weight._version, weight.data_ptr(), factor, iterates)
        return self._cache

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the raw weight well conditioned; called after every step of a torch optimizer.

        Call it yourself after a step that no `torch.optim.Optimizer` takes. The step D just made from
        the raw weight W with factor Q becomes one from r Q, r the root mean square of W's singular values:
        W + D becomes r Q + D. W and r Q have the same factor, so nothing the network computed
        changes, and the next factor is one quintic step away. Every `reorthogonalize_every` steps
        the raw weight is replaced by its exact polar factor, which resets r and fills null spaces.
        """
        cache, self._cache = self._cache, None
        self.training_steps += 1
        if self.training_steps % self.reorthogonalize_every == 0:
            self.reorthogonalize_()
        elif cache is not None and cache.iterates is not None:
            shift = cache.factor * cache.iterates.rms - cache.iterates.raw()
            self.weight.add_(shift.view(self.weight.shape))

    @torch.no_grad()
    def reorthogonalize_(self) -> None:
        """Replace the raw weight by its orthogonal factor in place.

        The layer's function stays the same, its raw weight becomes well conditioned again, and a null
        space, which the iteration cannot leave, is filled. The parameter and all optimizer state stay.
        """
        self.weight.copy_(polar_factor(matrix_view(self.weight)).view(self.weight.shape))

    def train(self, mode: bool = True) -> Any:
        """Set the mode and forget the computed factor."""
        self._cache = None
        return super().train(mode)

    def get_extra_state(self) -> dict[str, int]:
        """Return the number of training steps, which decides about the next re-orthogonalisation."""
        return {"training_steps": self.training_steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore the number of training steps."""
        self.training_steps = state["training_steps"]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._register()


class IsometricLinear(OrthogonalWeight, nn.Linear):
    r"""A linear layer all of whose singular values are one.

    .. math:: y = Q x + b, \qquad Q = W (W^T W)^{-1/2} \ \text{or} \ (W W^T)^{-1/2} W

    by differentiable Newton-Schulz iterations on the raw weight W (the parameter `weight`). Singular
    values of Q are within 1e-3 of one whenever the condition number of W is at most 10, and never above
    1 + 1e-3 whatever W is: to that accuracy the layer is 1-Lipschitz.

    Do not put its weight under AdamO's isometry, nor weight decay: both only change W, not Q.

    Args:
        in_features: n.
        out_features: m. If m > n, Q^T Q = I (norms are kept forward); if m < n, Q Q^T = I (backward).
        bias: whether to add b, initially zero.
        iterations: Newton-Schulz iterations, >= 1. The paper uses 7.
        reorthogonalize_every: training steps between two in-place orthogonalisations of W, >= 1,
            which keep its condition number small. The paper uses 10 000 and calls it arbitrary.
        device: where the parameters live.
        dtype: of the parameters; the iterations run in float32 at least.

    Raises:
        IsoplastError: for iterations or reorthogonalize_every below 1.

    Example:
        >>> layer = IsometricLinear(8, 4)
        >>> torch.linalg.svdvals(layer.effective_weight().detach()).round(decimals=3)
        tensor([1., 1., 1., 1.])

    Reference:
        arXiv:2606.09762, sections 3 and B.1; Björck and Bowie 1971; Anil et al. 2019.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        iterations: int = 7,
        reorthogonalize_every: int = 10_000,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self._prepare(iterations, reorthogonalize_every)

    def reset_parameters(self) -> None:
        """Draw an orthogonal weight; zero the bias."""
        _reset(self)

    def forward(self, input: Tensor) -> Tensor:
        """Return Q x + b for inputs of shape (..., in_features)."""
        return nn.functional.linear(input, self.effective_weight(), self.bias)

    def to_plain(self) -> nn.Linear:
        """Return a plain layer with the weight this one applies."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        return _freeze(self, plain)


class IsometricConv2d(OrthogonalWeight, nn.Conv2d):
    r"""A convolution whose kernel, reshaped to (out, in*k*k), has all singular values one.

    This is the paper's notion, and not the isometry of the operator on images: with stride 1 every
    pixel enters up to k*k patches, so the operator's largest singular value lies between 1 and
    ceil(k / stride) (`isoplast.diagnostics.conv_singular_values` tells). The two agree where patches
    do not overlap (stride = kernel size) and for 1 x 1 kernels. See `IsometricLinear` for how it works.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias, padding_mode: as in
            `torch.nn.Conv2d`.
        groups: 1; grouped kernels are several matrices.
        iterations, reorthogonalize_every, device, dtype: as in `IsometricLinear`.

    Raises:
        IsoplastError: for groups other than 1, iterations or reorthogonalize_every below 1.

    Example:
        >>> layer = IsometricConv2d(3, 8, 3, padding=1)
        >>> torch.linalg.svdvals(layer.effective_weight().detach().flatten(1)).round(decimals=3)
        tensor([1., 1., 1., 1., 1., 1., 1., 1.])

    Reference:
        arXiv:2606.09762, appendix A (kernels as matrices).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        *,
        iterations: int = 7,
        reorthogonalize_every: int = 10_000,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if groups != 1:
            raise IsoplastError(
                f"IsometricConv2d({in_channels}, {out_channels}, groups={groups}): the kernel is made "
                f"orthogonal as one matrix; use groups=1, or {groups} layers on slices of the channels"
            )
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device=device,
            dtype=dtype,
        )
        self._prepare(iterations, reorthogonalize_every)

    def reset_parameters(self) -> None:
        """Draw an orthogonal kernel; zero the bias."""
        _reset(self)

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of inputs of shape (n, in_channels, height, width)."""
        return self._conv_forward(input, self.effective_weight(), self.bias)  # type: ignore[no-any-return]

    def to_plain(self) -> nn.Conv2d:
        """Return a plain layer with the kernel this one applies."""
        plain = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,  # type: ignore[arg-type]
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.dilation,  # type: ignore[arg-type]
            bias=self.bias is not None,
            padding_mode=self.padding_mode,
            device="meta",
        )
        return _freeze(self, plain)


Plain = TypeVar("Plain", nn.Linear, nn.Conv2d)


def to_plain(model: nn.Module) -> nn.Module:
    """Copy a network with every isometric layer replaced by a plain one that computes the same.

    For deployment, export and further training without the constraint. The model itself stays as it is.

    Args:
        model: any module, isometric layers anywhere inside it or itself one.

    Returns:
        A deep copy without isometric layers; hooks on the replaced layers are not carried over.

    Example:
        >>> net = nn.Sequential(IsometricLinear(4, 4), nn.ReLU())
        >>> to_plain(net)[0]
        Linear(in_features=4, out_features=4, bias=True)
    """
    model = copy.deepcopy(model)
    if isinstance(model, IsometricLinear | IsometricConv2d):
        return model.to_plain()
    plain: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children() shows a shared layer once
            if isinstance(child, IsometricLinear | IsometricConv2d):
                plain.setdefault(child, child.to_plain())
                setattr(parent, name, plain[child])
    return model


def _reset(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.orthogonal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


@torch.no_grad()
def _freeze(layer: IsometricLinear | IsometricConv2d, plain: Plain) -> Plain:
    plain.weight = nn.Parameter(layer.effective_weight().clone(), layer.weight.requires_grad)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.clone(), layer.bias.requires_grad)
    return plain.train(layer.training)


@functools.cache
def _watch_optimizers() -> WeakIdKeyDictionary:
    """Return the registry of raw weights and their layers; the first call hooks into optimizer steps."""
    layers = WeakIdKeyDictionary()

    def after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter in layers:
                    # Fused kernels (Adam(fused=True), say) write without raising the version.
                    torch.autograd.graph.increment_version(parameter)
                    layer = layers[parameter]()
                    if layer is not None:
                        layer.after_step()

    register_optimizer_step_post_hook(after_step)
    return layers


@torch.fx.wrap
def kernel_factor(weight: Tensor, iterations: int) -> Tensor:
    """Return the orthogonal factor of a weight of any shape, without the cache."""
    return orthogonal_factor(matrix_view(weight), iterations).view(weight.shape)


def _in_transform(weight: Tensor) -> bool:
    """Whether the weight is not the layer's own parameter, or is being traced, transformed or compiled."""
    return (
        not isinstance(weight, nn.Parameter)
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or weight.is_inference()
    )
