"""Kernels that can be differentiated forwards, backwards, twice and vectorised."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def differentiable_kernels(network: nn.Module) -> Iterator[None]:
    """Switch fused kernels and sparse gradients off: the same numbers, but with every derivative.

    Fused attention has no second derivative. Without gradients torch's Transformer layers run in evaluation
    mode as one fused operation, which also calls none of the modules inside. oneDNN's LSTM has no forward
    derivative and no rule for vmap, cuDNN's recurrent layers have no derivative at all in evaluation mode.
    Sparse gradients of embeddings can be neither reshaped nor differentiated.

    Args:
        network: the module to differentiate.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in network.modules())
    tables = [m for m in network.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for table in tables:
        table.sparse = False
    try:
        with sdpa_kernel(SDPBackend.MATH), _native() if recurrent else contextlib.nullcontext():
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
