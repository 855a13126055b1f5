"""The empirical neural tangent kernel of a network on a batch."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError, unknown
from isoplast.diagnostics._outputs import are_classes, check_outputs
from isoplast.diagnostics.ntk._exact import Misfit, kernel
from isoplast.diagnostics.ntk._free import Products
from isoplast.diagnostics.ntk._half import Half
from isoplast.diagnostics.ntk._plan import Plan, plan
from isoplast.diagnostics.ntk._result import NTK, SPECTRUM, estimated, exact, nothing
from isoplast.model import (
    differentiable_kernels,
    non_finite_names,
    outputs,
    preserve_state,
    refuse_scripted,
    replaced,
    sample_count,
    usable,
)

# Activations that a graph of gradients keeps, relative to one of outputs.
_TWICE = 8

METHODS = ("auto", "layers", "samples", "lanczos")


def ntk(
    model: nn.Module,
    inputs: Any,
    *,
    centred: bool = False,
    biases: bool = True,
    targets: Tensor | None = None,
    method: str = "auto",
    memory_limit: int = 2 * 2**30,
    steps: int = 50,
    probes: int = 4,
    seed: int = 0,
) -> NTK:
    r"""The empirical NTK of a network: how far one gradient step moves each output of each sample.

    With J the Jacobian of all outputs on the batch by the trainable parameters,

    .. math:: K = J J^T, \qquad \Delta L = -\eta\, g^T K g + O(\eta^2), \qquad
              K = \sum_l (H_{l-1} H_{l-1}^T) \circ (B_l B_l^T)

    where :math:`H_{l-1}` are the inputs of layer l, one row per sample, and :math:`B_l` the derivatives of
    the outputs by what the layer computes. The layer-wise form never builds J. It serves Linear,
    convolutions, Embedding and the affine parameters of normalisations, shared ones too; whether it applies
    is checked against autograd on two samples, for every parameter. The rest takes gradients sample by
    sample, for those parameters only. Products are summed in float64: eigenvalues are resolved down to
    1e-13 of the largest.

    The network is measured in evaluation mode (BatchNorm by its running statistics, no dropout), without
    autocast, and left as it was. Frozen parameters do not count.

    Args:
        model: any module whose outputs are one tensor (n, ...), C numbers per sample.
        inputs: n samples: a tensor, or a tuple or mapping of tensors, with the samples in front.
        centred: project the mean over the last output dimension out of K. The gradient of a cross-entropy
            has no part along it. Needs at least two outputs.
        biases: whether parameters with "bias" in their own name count. Without them K of a deep orthogonal
            linear network is a multiple of X X^T (Eq 9); they add a large eigenvalue along the constant
            direction.
        targets: for `alignment`: class numbers (outputs.shape[:-1]; cross-entropy, -100 is ignored), or
            numbers shaped like the outputs (squared loss).
        method: "auto"; "layers" refuses parameters without a formula; "samples" differentiates sample by
            sample; "lanczos" never builds the matrix: extreme eigenvalues, spectral density and traces from
            products with vectors.
        memory_limit: bytes the computation may add, > 0. Layers, then samples, are processed in groups that
            fit, the fewer the faster.
        steps: of "lanczos", >= 2: the more, the closer the extreme eigenvalues.
        probes: of "lanczos", >= 1: random vectors for traces; their standard errors need two.
        seed: of the random vectors.

    Returns:
        The kernel and what its spectrum says.

    Raises:
        IsoplastError: for inputs that do not fit the model, targets that do not fit the outputs, an unknown
            method, a model without trainable parameters or whose samples influence each other, and a memory
            limit that does not hold the matrix (it says how much is needed, and how many samples fit).

    Example:
        >>> model = nn.Linear(3, 2, bias=False)
        >>> found = ntk(model, torch.eye(3))
        >>> found.condition_number, found.participation_rank
        (1.0, 6.0)

    Reference:
        arXiv:2606.09762, Eq 2-9; Jacot, Gabriel and Hongler, "Neural tangent kernel", NeurIPS 2018.
    """
    if method not in METHODS:
        raise unknown("NTK method", method, METHODS)
    if memory_limit <= 0:
        raise IsoplastError(f"memory_limit={memory_limit}: give a positive number of bytes")
    if steps < 2 or probes < 1:
        raise IsoplastError(f"steps={steps}, probes={probes}: lanczos needs at least 2 steps and 1 probe")
    inputs = usable(inputs)
    samples = sample_count(inputs)
    with (
        preserve_state(model) as network,
        differentiable_kernels(network),
        torch.enable_grad(),
        contextlib.ExitStack() as stack,
    ):
        refuse_scripted(network)
        # Stand-ins, so that the hooks of the parameters themselves are not called.
        parameters = {name: p.detach().requires_grad_() for name, p in _parameters(network, biases).items()}
        stack.enter_context(replaced(network, parameters))
        with torch.no_grad():
            values = outputs(network, inputs)
        check_outputs(network, values, inputs)
        classes = values.shape[-1] if values.dim() > 1 else 1
        if centred and classes < 2:
            raise IsoplastError("centred=True needs at least two outputs: the last dimension has one")
        gradient = None if targets is None else _gradient(values, targets)
        facts = {
            "samples": samples,
            "outputs": values[0].numel(),
            "parameters": sum(parameter.numel() for parameter in parameters.values()),
            "biases": biases,
            "centred": centred,
            "size": values.numel() // classes * (classes - centred),
        }
        basis = _centring(classes) if centred else None
        bad = _non_finite(network, values)
        if bad:
            return nothing(bad, method, facts)
        if method == "lanczos":
            how = plan(network, inputs, parameters, method)
            block = max(1, min(samples, memory_limit // max(1, _TWICE * how.activations)))
            product = Products(network, inputs, parameters, block)
            return estimated(product, values, basis, gradient, (steps, probes, seed), facts)
        how, half = _whole(network, inputs, parameters, method, memory_limit)
    return exact(half.whole(), basis, gradient, _description(how), facts)


def _whole(
    network: nn.Module, inputs: Any, parameters: dict[str, Tensor], method: str, limit: int
) -> tuple[Plan, Half]:
    """Half the matrix, with the plan that it was computed by."""
    without: set[str] = set()
    while True:
        how = plan(network, inputs, parameters, method, without)
        division = how.division(sample_count(inputs), limit, following=SPECTRUM)
        try:
            return how, kernel(network, inputs, how, division)
        except Misfit as misfit:
            without |= misfit.names


def _parameters(network: nn.Module, biases: bool) -> dict[str, nn.Parameter]:
    found = {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and (biases or "bias" not in name.rpartition(".")[2])
    }
    if not found:
        raise IsoplastError("the model has no trainable parameters: set requires_grad on those to measure")
    for name, parameter in found.items():
        if parameter.is_complex():
            raise IsoplastError(f"{name} is complex: derivatives are taken by real parameters only")
    return found


def _gradient(values: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient (n, C) of the summed loss by the outputs, in float64."""
    values, targets = values.double(), targets.to(values.device)
    if not are_classes(targets, tuple(values.shape)):
        return (values - targets.double().view_as(values)).reshape(len(values), -1)
    counted = targets != -100
    hot = F.one_hot(targets.where(counted, 0), values.shape[-1])
    return ((values.softmax(-1) - hot) * counted.unsqueeze(-1)).reshape(len(values), -1)


def _centring(classes: int) -> Tensor:
    """Return an orthonormal basis (C, C - 1) of the vectors that sum to zero (Helmert's)."""
    basis = torch.triu(torch.ones(classes, classes - 1, dtype=torch.float64))
    index = torch.arange(1, classes, dtype=torch.float64)
    basis[1:].diagonal().copy_(-index)
    return basis / (index * (index + 1)).sqrt()


def _non_finite(network: nn.Module, values: Tensor) -> tuple[str, ...]:
    """Return the names of the weights and buffers that are not finite, else whether the outputs are not."""
    found = non_finite_names({**dict(network.named_parameters()), **dict(network.named_buffers())})
    if found or bool(values.isfinite().all()):
        return found
    return ("outputs",)


def _description(how: Plan) -> str:
    if not how.sampled:
        return "by layers"
    if not how.layered:
        return "by samples"
    return f"by layers; by samples: {', '.join(how.sampled)}"
