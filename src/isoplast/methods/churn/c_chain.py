"""C-CHAIN: a penalty on how far an update moves the outputs for other data."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Inputs, Method, MethodInfo, StepContext
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, fraction
from isoplast.methods._tools._tensors import tensors_in, with_tensors
from isoplast.model import run


@register
@dataclasses.dataclass(frozen=True)
class CChain(Method):
    r"""Adam with a penalty on churn: how far an update moved the outputs for data outside of its batch.

    .. math:: L(\theta_t) + c\, \mathbb{E}_{x \sim B_\text{ref}} \|f_{\theta_t}(x) - f_{\theta_{t-1}}(x)\|^2,
              \qquad c = \rho\, \frac{\overline{|L|}}{\overline{\text{churn}}}

    with the mean over examples and outputs, and running means of both losses, so that the penalty is always a
    share rho of the loss. It damps the off-diagonal entries of the empirical NTK, which isometry of the
    weights leaves free. Where a network returns several tensors, the mean of their churns counts.

    Args:
        ratio: rho, >= 0. The source uses 0.01 with DDQN, 0.05 with PPO on continuous control.
        decay: of the running means, in [0, 1). The source averages the last 100 (PPO) to 50 000 (DDQN)
            updates.

    Deviations: the reference batch is the one before last, which is outside of the batch that made the last
    update (the source draws from the rollout or the replay buffer). Outputs are compared in evaluation mode
    and with the same buffers, so that neither dropout nor the statistics of batch normalisation count as
    churn, or are touched. c follows the means from the fourth step on; the source keeps a constant (50 or
    100) until its averages are long enough.

    Reference:
        Tang et al., "Mitigating plasticity loss in continual reinforcement learning by reducing churn",
        ICML 2025, arXiv:2506.00592, section 5 and the authors' code.
    """

    name: ClassVar[str] = "c-chain"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="C-CHAIN",
        source="Tang et al., arXiv:2506.00592, section 5",
        controls="no weight: the off-diagonal entries of the empirical NTK",
        spectrum="none",
        family="churn",
        cost="two forward passes and one backward pass of another batch",
        needs_inputs=True,
        strength="ratio",
    )

    ratio: float = 0.01
    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0.0, "ratio")
        fraction(self, "decay", below_one=True)

    def penalty(self, model: nn.Module, inputs: Inputs) -> Tensor | None:
        """Return the weighted churn of the last update.

        Raises:
            IsoplastError: for a network that returns no tensor.
        """
        if self.ratio == 0:
            return None
        state = self.state
        churn = self._churn(model, state["seen"]) if "seen" in state else None
        if "last" in state and "next" not in state:  # at the start of a step; SAM's second pass is elsewhere
            state["next"] = _look(self, model, state["last"])
            if churn is not None:
                state["churn"] = churn.detach()
        if churn is None or "means" not in state:
            return None
        means = state["means"]
        coefficient: Tensor = self.ratio * means["loss"] / (means["churn"] + 1e-8)
        return coefficient * churn

    def after_step(self, step: StepContext) -> None:
        """Keep the batch and the outputs that the next churn is measured on; update the running means."""
        if self.ratio == 0:
            return
        state = self.state
        if "next" in state:
            state["seen"] = state.pop("next")
        # A copy: the loop may use its memory again.
        state["last"] = with_tensors(lambda tensor: tensor.detach().clone(), step.inputs)
        if "churn" in state:
            found = {"loss": step.loss.abs(), "churn": state["churn"]}
            means = state.get("means", found)
            state["means"] = {key: means[key].lerp(value, 1 - self.decay) for key, value in found.items()}

    def _churn(self, model: nn.Module, seen: dict[str, Any]) -> Tensor:
        """The mean square by which the last update moved the outputs, with a graph."""
        with _evaluation(model, seen["buffers"]):
            outputs = _outputs(self, model, seen["inputs"])
        pairs = zip(outputs, seen["outputs"], strict=True)
        return torch.stack([mse_loss(new, old) for new, old in pairs]).mean()


def _look(method: Method, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Outputs for a batch now, with copies of the buffers that they depend on."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers(remove_duplicate=False)}
    with _evaluation(model, buffers), torch.no_grad():
        return {"inputs": inputs, "outputs": _outputs(method, model, inputs), "buffers": buffers}


def _outputs(method: Method, model: nn.Module, inputs: Inputs) -> list[Tensor]:
    found = [tensor for tensor in tensors_in(run(model, inputs)) if tensor.is_floating_point()]
    if not found:
        raise IsoplastError(
            f"method {method.name} compares outputs, and {type(model).__name__} returns no tensor: "
            "let it return tensors, alone or in a tuple or dict"
        )
    return found


@contextlib.contextmanager
def _evaluation(model: nn.Module, buffers: dict[str, Tensor]) -> Iterator[None]:
    """Evaluation mode with other buffers.

    They are put in the place of the network's own: the task loss may be waiting for its backward pass, which
    would notice a write.
    """
    modes = [(module, module.training) for module in model.modules()]
    own = [
        (module._buffers, key, buffer, f"{prefix}.{key}".lstrip("."))
        for prefix, module in model.named_modules()
        for key, buffer in module._buffers.items()
    ]
    model.eval()
    try:
        for owner, key, _, name in own:
            if name in buffers:
                owner[key] = buffers[name]
        yield
    finally:
        for owner, key, buffer, _ in own:
            owner[key] = buffer
        for module, mode in modes:
            module.training = mode
