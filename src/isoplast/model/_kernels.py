"""Kernels that can be differentiated forwards, backwards, twice and vectorised."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def differentiable_kernels(network: nn.Module) -> Iterator[None]:
    """Switch fused kernels and sparse gradients off: the same numbers, but with every derivative.

    Fused attention has no second derivative. Without gradients torch's Transformer layers run in evaluation
    mode as one fused operation, which also calls none of the modules inside. oneDNN's LSTM has no forward
    derivative and no rule for vmap, cuDNN's recurrent layers have no derivative at all in evaluation mode.
    Sparse gradients of embeddings can be neither reshaped nor differentiated. The second derivative of the
    fused weight normalisation takes the norm as constant and is wrong: its Hessians are not symmetric.

    Args:
        network: the module to differentiate.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in network.modules())
    normed = any(map(_normed, network.modules()))
    tables = [m for m in network.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for table in tables:
        table.sparse = False
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if recurrent:
                stack.enter_context(_native())
            if normed:
                stack.enter_context(_PlainWeightNorm())
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for table in tables:
            table.sparse = True


@contextlib.contextmanager
def _native() -> Iterator[None]:
    """Without oneDNN and cuDNN."""
    # The public switch of oneDNN sets its precision along with it, and warns.
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def _normed(module: nn.Module) -> bool:
    return isinstance(module, _WeightNorm) or any(
        isinstance(hook, WeightNorm) for hook in module._forward_pre_hooks.values()
    )


class _PlainWeightNorm(TorchFunctionMode):
    """Weight normalisation by operations each of which has all its derivatives."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function, or what stands for it."""
        if func is not torch._weight_norm:
            return func(*args, **(kwargs or {}))
        direction, length, dim = (*args, 0)[:3]
        return direction * (length / torch.norm_except_dim(direction, 2, dim))
