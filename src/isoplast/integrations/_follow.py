"""Monitor, methods and task boundaries around an optimizer step that somebody else's loop does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import Monitor
from isoplast.methods import Combination, Method, StepContext, TaskContext, get
from isoplast.model import clone, unwrap

MakeMonitor = Callable[[nn.Module, Optimizer], Monitor]


class Follow:
    """Runs a method and a monitor after every step of an optimizer, whoever calls it.

    A hook on the optimizer's step does it, so that accumulated gradients, skipped steps and several epochs
    per call count as they should; the inputs are those of the network's last forward pass in training. What a
    framework's callback adds is when to start, to save and to stop.

    The method changes weights after the step and between tasks (resets, projections, clipping). One that
    changes the network is to prepare it before its optimizer is made, by
    ``network = follow.prepare(network)``; one that brings an optimizer makes it, by
    ``follow.method.optimizer(network, lr)``.

    Args:
        method: a name as :func:`isoplast.methods.get` takes it, or a method; None for the monitor alone.
        monitor: makes the monitor from the network and its optimizer, such as
            ``functools.partial(Monitor, measures=["weights"])``; None for the method alone.
        settings: of the method.

    Attributes:
        method: the method.
        monitor: the monitor, from the start on.
        steps: optimizer steps since the start.
        task: number of the present task, from 0.

    Raises:
        IsoplastError: for neither of them, and for a method that must be inside the step: one that adds to
            the loss, calls the closure again or evaluates other weights.

    Example:
        >>> network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> follow = Follow("redo", every=10)
        >>> optimizer = follow.method.optimizer(network, 1e-3)
        >>> with follow.start(network, optimizer):
        ...     for _ in range(20):
        ...         network(torch.randn(16, 3)).square().mean().backward()
        ...         optimizer.step()
        >>> follow.steps
        20
    """

    def __init__(
        self,
        method: str | Method | None = None,
        monitor: MakeMonitor | None = None,
        **settings: Any,
    ) -> None:
        if method is None and monitor is None:
            raise IsoplastError("there is nothing to do: give a method, a monitor, or both")
        if method is None and settings:
            raise IsoplastError(f"{min(settings)} is a setting of a method, and there is none: give method=")
        self.method = None if method is None else get(method, **settings)
        if self.method is not None:
            _refuse_inside(self.method)
        self.monitor: Monitor | None = None
        self.steps = self.task = 0
        self._prepared = False
        self._make_monitor = monitor
        self._network: nn.Module | None = None
        self._optimizer: Optimizer | None = None
        self._handles: list[Any] = []
        self._inputs: Any = None
        self._loaded: Mapping[str, Any] | None = None

    def prepare(self, network: nn.Module) -> nn.Module:
        """Lets a method that changes the network do so; to be called before the optimizer is made.

        Args:
            network: what is to be trained.

        Returns:
            What to train: the same module, changed in place or not, or another one.
        """
        self._prepared = True
        return network if self.method is None else self.method.prepare(network)

    def start(self, network: nn.Module, optimizer: Any) -> Follow:
        """Follows a network and its optimizer from the next step on; ``with`` stops it at the end.

        Args:
            network: what is trained; compiled and data-parallel wrappers are looked into.
            optimizer: its optimizer, also inside a wrapper such as Accelerate's.

        Raises:
            IsoplastError: if it follows one already, for an optimizer that holds none of the network's
                parameters, and what the method says of a network that it cannot take.
        """
        if self._network is not None:
            raise IsoplastError("it follows a training already: stop() it first")
        inner = unwrapped(optimizer)
        held = {id(p) for group in inner.param_groups for p in group["params"]}
        if not any(id(p) in held for p in network.parameters()):
            raise IsoplastError(
                f"the optimizer holds no parameter of this {type(network).__name__}: give the network that "
                "it trains, or the optimizer of this one"
            )
        plain = unwrap(network)
        if self.method is not None:
            if not self._prepared:
                _refuse_changing(self.method, plain)
                self.method.prepare(plain)
            self.method.begin(plain, inner)
        if self._make_monitor is not None:
            self.monitor = self._make_monitor(network, inner)
        self._network, self._optimizer = network, inner
        self._handles = [
            plain.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            inner.register_step_post_hook(self._after_step),
        ]
        if self._loaded is not None:
            self._take_over(self._loaded)
        return self

    def stop(self) -> None:
        """Takes all hooks off; what the method and the monitor found stays. Stopping twice is no error."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._network is not None and self.method is not None:
            self.method.release()
        self._network = self._optimizer = self._inputs = None

    def __enter__(self) -> Follow:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def new_task(self, inputs: Any = None, loss: Any = None) -> None:
        """Says that another task begins; before the first step that is the first one.

        Args:
            inputs: inputs of the new task, as the network takes them, as many as there are at hand.
            loss: computes the loss on data of the new task; some methods need it.
        """
        network, optimizer = self._following()
        if self.steps:
            self.task += 1
        if self.method is not None and self.method.info.needs_task_boundaries:
            self.method.on_task(TaskContext(unwrap(network), optimizer, self.task, inputs, loss))

    def state_dict(self) -> dict[str, Any]:
        """What the method and the monitor remember, for a checkpoint; ``weights_only=True`` loads it."""
        return {
            "steps": self.steps,
            "task": self.task,
            "method": None if self.method is None else {"name": self.method.name, "state": self.method.state},
            "monitor": None if self.monitor is None else self.monitor.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint, at once or with the next start.

        Raises:
            IsoplastError: for the state of another method.
        """
        saved = state["method"]
        name = None if self.method is None else self.method.name
        if name is not None and saved is not None and saved["name"] != name:
            raise IsoplastError(
                f"the state is one of method {saved['name']}, and this is {name}: use the same one"
            )
        self._loaded = state
        if self._network is not None:
            self._take_over(state)

    def _take_over(self, state: Mapping[str, Any]) -> None:
        self._loaded = None
        self.steps, self.task = state["steps"], state["task"]
        if self.method is not None and state["method"] is not None:
            self.method.load_state(_copied(state["method"]["state"]))
        if self.monitor is not None and state["monitor"] is not None:
            self.monitor.load_state_dict(state["monitor"])

    def _following(self) -> tuple[nn.Module, Optimizer]:
        if self._network is None or self._optimizer is None:
            raise IsoplastError("no training is followed yet: start(network, optimizer) first")
        return self._network, self._optimizer

    def saw(self, inputs: Any) -> None:
        """Says what the network was given, where the training calls another function of it than its forward.

        Args:
            inputs: of the step that comes, as its forward takes them.
        """
        if torch.is_grad_enabled():
            self._inputs = inputs

    def _before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Passes without a graph are no training: rollouts, evaluations, and the method's own.
        if module.training and torch.is_grad_enabled():
            self._inputs = (
                kwargs if kwargs and not args else args[0] if len(args) == 1 and not kwargs else args
            )

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        network, optimizer = self._following()
        self.steps += 1
        if self.method is not None:
            if self._inputs is None and self.method.info.needs_inputs:
                raise IsoplastError(
                    f"method {self.method.name} looks at the batch again, and {type(network).__name__} "
                    "itself was not called in this step: follow the module whose forward the training "
                    "calls, or say saw(inputs)"
                )
            loss = torch.full((), float("nan"))  # nobody outside the loop knows it; no method here reads it
            context = StepContext(unwrap(network), optimizer, self._inputs, loss, self.steps)
            with torch.no_grad():
                self.method.after_step(context)
        if self.monitor is not None:
            self.monitor.step()


def unwrapped(optimizer: Any) -> Optimizer:
    """The torch optimizer inside wrappers (Accelerate's, Lightning's).

    Raises:
        IsoplastError: if there is none.
    """
    found = optimizer
    while not _hooked(found):
        if not hasattr(found, "optimizer"):
            raise IsoplastError(f"{type(optimizer).__name__} is no torch optimizer, nor a wrapper of one")
        found = found.optimizer
    return found  # type: ignore[no-any-return]


def _hooked(optimizer: Any) -> bool:
    """Whether its own step is called; a wrapper is an Optimizer as well and passes the step on."""
    return isinstance(optimizer, Optimizer) and not isinstance(
        getattr(optimizer, "optimizer", None), Optimizer
    )


def _parts(method: Method) -> tuple[Method, ...]:
    return tuple(method.parts) if isinstance(method, Combination) else (method,)


def _refuse_changing(method: Method, network: nn.Module) -> None:
    """Refuses a method that would replace modules of a network, or set its weights anew, after the fact."""
    if all(type(part).prepare is Method.prepare for part in _parts(method)):
        return
    tried = clone(network)
    same = method.prepare(tried) is tried and _kinds(tried) == _kinds(network)
    if same:
        before, after = network.state_dict(), tried.state_dict()
        same = before.keys() == after.keys() and all(
            torch.equal(value, after[name]) for name, value in before.items() if isinstance(value, Tensor)
        )
    if not same:
        raise IsoplastError(
            f"method {method.name} changes the network: call prepare(network) before its optimizer is made, "
            "and train what it returns"
        )


def _kinds(network: nn.Module) -> list[tuple[str, type]]:
    return [(name, type(module)) for name, module in network.named_modules()]


def _refuse_inside(method: Method) -> None:
    """Refuses what cannot be done after a step: those methods would silently do half of their work."""
    for part in _parts(method):
        kind = type(part)
        for hook, does in (
            ("penalty", "adds a penalty to the loss"),
            ("step", "does the optimizer's step itself"),
            ("evaluated", "evaluates other weights than the trained ones"),
        ):
            if getattr(kind, hook) is not getattr(Method, hook):
                raise IsoplastError(
                    f"method {part.name} {does}, which a callback cannot do for a framework's loop: use "
                    "isoplast.methods.training in a loop of your own"
                )


def _copied(value: Any) -> Any:
    """A copy of a state with its own tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
