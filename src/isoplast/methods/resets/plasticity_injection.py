"""Plasticity injection: the head is frozen, and a fresh one learns on top of it."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, ClassVar

import torch.fx
from torch import Tensor, nn
from torch.fx.passes.split_module import split_module
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Method, MethodInfo, StepContext
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least
from isoplast.methods._tools._execution import LayerTracer, last_layers
from isoplast.methods._tools._fresh import drawn, forget, prepare_to_draw, put
from isoplast.methods._tools._tensors import with_tensors
from isoplast.model import clone

_HEAD = "submod_1"


class InjectedHead(nn.Module):
    r"""A head h that goes on learning as a fresh one once it was injected, with the same outputs.

    .. math:: h_{\theta}(x) \quad\text{before}, \qquad
              h_{\theta}(x) + h_{\theta'}(x) - h_{\theta'_0}(x) \quad\text{after}

    Args:
        old: the head with theta, trained before the injection and frozen after it.
        new: the same with fresh parameters theta', which are trained after it.
    """

    def __init__(self, old: nn.Module, new: nn.Module) -> None:
        super().__init__()
        # The old head last: what looks for the network's last layer finds one that is always executed.
        self.start = copy.deepcopy(new).requires_grad_(False)
        self.new = new
        self.old = old
        self.injected = False

    def inject(self) -> None:
        """Freeze the old head, and let the new one add what it learns from now on."""
        # Penalties and decay may have moved it all the time.
        self.new.load_state_dict(self.start.state_dict())
        self._freeze_old()

    def _freeze_old(self) -> None:
        self.injected = True
        for parameter in self.old.parameters():
            parameter.requires_grad_(False).grad = None

    def forward(self, *features: Any) -> Any:
        """Return the outputs."""
        outputs = self.old(*features)
        if not self.injected:
            return outputs
        return with_tensors(_added, outputs, self.new(*features), self.start(*features))

    def get_extra_state(self) -> dict[str, bool]:
        """Return whether the injection has happened."""
        return {"injected": self.injected}

    def set_extra_state(self, state: dict[str, bool]) -> None:
        """Go on behind the injection, if it had happened."""
        if state["injected"]:
            self._freeze_old()


def _added(old: Tensor, new: Tensor, start: Tensor) -> Tensor:
    return old + (new - start) if old.is_floating_point() else old


@register
@dataclasses.dataclass(frozen=True)
class PlasticityInjection(Method):
    r"""Adam, whose head is frozen after a while and goes on as a fresh one, without a change of the function.

    .. math:: f(x) = h_{\theta}(\phi(x)) + h_{\theta'}(\phi(x)) - h_{\theta'_0}(\phi(x)), \qquad
              \theta' = \theta'_0 \ \text{at the injection}

    The fresh head is there from the start, so the optimizer owns it; theta gets no gradient and no decay
    after the injection. A head may return several tensors, as that of an agent does: each is treated so.

    Args:
        after: optimizer steps before the injection, >= 1. The source injects once, at a quarter of its run.
        layers: layers with a weight that make up the head, >= 1. The source's head is the 2 behind the
            convolutions of a DQN. With one linear layer, the gradient for theta' is that for theta, so all
            that changes is that Adam's moments of the head start anew.

    The heads stay when another method takes over.

    Deviations: none known for heads without dropout; with it, the three heads drop different units in
    training, and the function is unchanged in evaluation mode only. The network is cut by tracing, so it
    must be traceable, and its parameters have other names afterwards.

    Reference:
        Nikishin et al., "Deep reinforcement learning with plasticity injection", NeurIPS 2023,
        arXiv:2305.15555, section 4.
    """

    name: ClassVar[str] = "plasticity-injection"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Plasticity injection",
        source="Nikishin et al., arXiv:2305.15555, section 4",
        controls="the spectra of an added head (fresh ones; the old one's stay), once",
        family="resets",
        cost="after the injection two more passes through the head",
        keeps_function=True,
        # No other method may reset the heads, nor the units that they read: two of the three are frozen.
        claims=frozenset({"units", "layers"}),
    )

    after: int = 10_000
    layers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "after", "layers")

    def prepare(self, model: nn.Module) -> nn.Module:
        """Cut the network in front of its last layers, and put three heads there."""
        names = last_layers(self, model, self.layers)
        prepare_to_draw(self, model)
        fresh = clone(model)
        put(fresh, drawn(self, model), dict(model.named_parameters()))
        self.state.clear()
        network, other = self._cut(model, names), self._cut(fresh, names)
        setattr(network, _HEAD, InjectedHead(network.get_submodule(_HEAD), other.get_submodule(_HEAD)))
        return network

    def report(self, optimizer: Optimizer, steps: int) -> list[str]:
        """Return a warning if the run ends before the injection."""
        if steps > self.after:
            return []
        return [f"warning: plasticity injection after {self.after} steps never happens in a run of {steps}"]

    def after_step(self, step: StepContext) -> None:
        """Inject when the time has come."""
        if step.step == self.after:
            head = next(module for module in step.model.modules() if isinstance(module, InjectedHead))
            forget(step.optimizer, [*head.old.parameters(), *head.new.parameters()])
            head.inject()

    def _cut(self, model: nn.Module, names: list[str]) -> torch.fx.GraphModule:
        """The same network as two modules, the second of which starts with the first of these layers."""
        bare = clone(model)
        try:
            graph = LayerTracer().trace(bare)
        except Exception as error:  # whatever a stranger's forward raises on symbolic inputs
            reason = str(error).strip().partition("\n")[0]
            raise IsoplastError(
                f"method {self.name} must trace {type(model).__name__} to cut it in front of {names[0]}: "
                f"{reason}"
            ) from error
        whole = torch.fx.GraphModule(bare, graph)
        order = list(graph.nodes)
        first = next(
            i for i, node in enumerate(order) if node.op == "call_module" and node.target == names[0]
        )
        behind = set(order[first:])
        return split_module(whole, whole, lambda node: int(node in behind))
