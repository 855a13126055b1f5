"""A method in anybody's training loop."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.methods._combination import Combination
from isoplast.methods._protocol import Inputs, Loss, Method, StepContext, TaskContext
from isoplast.methods._registry import get
from isoplast.methods._tools._fresh import tensors
from isoplast.methods._tools._losses import losses
from isoplast.methods._tools._regulariser import Regulariser
from isoplast.methods._tools._tensors import tensors_in, with_tensors
from isoplast.model import unwrap


def training(
    method: str | Method,
    model: nn.Module,
    *,
    lr: float = 1e-3,
    clip_norm: float | None = None,
    device: torch.device | str | None = None,
    **settings: Any,
) -> Training:
    """Train a network with a method, in a loop of one's own.

    The loss is the loop's: a classifier's, a regression's, a language model's, an agent's.

    Args:
        method: a name as `get` takes it ("redo", "adamo+layernorm", "package.module:Name"), or a method.
        model: any network; the method may change its layers, so use `.model` of what is returned.
        lr: the learning rate, >= 0.
        clip_norm: what the norm of all gradients together is clipped to, > 0; None leaves them alone.
        device: where the network goes when the method has prepared it, so that a seed means the same weights
            on every device; None leaves it where it is.
        settings: of the method; those left out keep its source's default.

    Raises:
        IsoplastError: for an unknown method or setting, a value out of range, a network that the method
        cannot
            take, and for one whose layers have no shape yet.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> run = training("redo+layernorm", model, lr=1e-2, tau=0.1)
        >>> x, y = torch.randn(16, 3), torch.randn(16, 2)
        >>> losses = [run.step(lambda: (run.model(x) - y).square().mean(), inputs=x) for _ in range(50)]
        >>> bool(losses[-1] < losses[0]), run.steps
        (True, 50)
    """
    if not isinstance(model, nn.Module):
        raise IsoplastError(f"model is {type(model).__name__}: give a torch.nn.Module")
    shapeless = next((name for name, tensor in tensors(model).items() if is_lazy(tensor)), None)
    if shapeless is not None:
        raise IsoplastError(f"{shapeless} is not initialised yet: run one batch through the model first")
    try:
        rate = float(lr)  # a number of numpy's would be in every checkpoint of the optimizer
    except (TypeError, ValueError):
        raise IsoplastError(f"lr is {lr!r}: give a number") from None
    chosen = get(method, **settings)
    _refuse_used(chosen)
    prepared = chosen.prepare(model)
    prepared = prepared if device is None else prepared.to(device)
    try:
        optimizer = chosen.optimizer(prepared, rate)
    except ValueError as error:  # a combination of settings that only the optimizer can judge
        reason = str(error).partition("\n")[0]
        raise IsoplastError(f"method {chosen.name} with lr {rate:g}: {reason}") from error
    return Training(chosen, prepared, optimizer, clip_norm=clip_norm)


class Training:
    """A network that is trained with a method, and its optimizer; usually made by `training`.

    Accumulating gradients: let the closure return the losses of the parts of a batch one after the other,
    each divided by their number, as a generator: every part's graph is freed before the next one is computed.
    Penalties on features see those of the first part.

    .. code-block:: python

        run.step(lambda: (loss_fn(run.model(x), y) / len(parts) for x, y in parts), inputs=parts[0][0])

    Mixed precision: enter `torch.autocast` in bfloat16 inside the closure. There is no scaling of float16
    losses, as methods look at the gradients themselves.

    A learning-rate scheduler takes `optimizer`. A loop that cannot leave the backward pass to `step` calls
    the method's hooks itself, in the order in which `Method` lists them.

    Args:
        method: the method; belongs to this object from now on.
        model: what its `prepare` returned.
        optimizer: what its `optimizer` returned, or another one for all parameters of the model.
        clip_norm: see `training`.

    Attributes:
        model: the network; may be replaced by a compiled or data-parallel wrapper around it.
        optimizer: its optimizer.
        method: the method.
        steps: optimizer steps since the method took over.
        task: number of the present task, from 0, as far as `new_task` was called.
    """

    def __init__(
        self, method: Method, model: nn.Module, optimizer: Optimizer, *, clip_norm: float | None = None
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise IsoplastError(f"clip_norm is {clip_norm}: it must be positive, or None")
        _refuse_used(method)
        for part in (method, *_parts(method)):
            object.__setattr__(part, "_used", True)
        self.method = method
        self.model = model
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.steps = 0
        self.task = 0
        self._begun = False

    def step(self, closure: Loss, inputs: Inputs = None) -> Tensor:
        """Do one training step.

        Args:
            closure: computes the task loss, of shape (), with its graph and without a backward pass; or
                several, one after the other, whose sum it is. Some methods call it twice.
            inputs: the batch, as the model takes it: a tensor, a tuple of positional or a mapping of keyword
                arguments. Needed by methods that look at it again.

        Returns:
            The task loss before the step, detached: without the method's penalty.

        Raises:
            IsoplastError: if the method needs the inputs and there are none, and for a closure that returns
                no tensor.
        """
        self._begin()
        if inputs is None and self.method.info.needs_inputs:
            raise IsoplastError(
                f"method {self.method.name} looks at the batch again: give step(..., inputs=)"
            )
        model = unwrap(self.model)
        values: list[Tensor] = []

        def whole() -> Tensor:
            _drop_gradients(self.optimizer)
            loss, minimised = self._differentiate(closure, model, inputs)
            values.append(loss)
            return minimised

        self.method.step(self.optimizer, whole)
        if not values:
            raise IsoplastError(f"method {self.method.name} did a step without calling its closure")
        self.steps += 1
        loss = values[0]
        self.method.after_step(StepContext(model, self.optimizer, inputs, loss, self.steps))
        return loss

    def new_task(self, inputs: Inputs = None, loss: Loss | None = None) -> None:
        """Say that another task begins; before the first step that is the first one.

        Does nothing with methods that need no task boundaries, so that a loop may always call it.

        Args:
            inputs: inputs of the new task, as many as there are at hand.
            loss: computes the loss on data of the new task, in one piece or one batch after the other, with
                its graph. Method `dash` needs it.
        """
        self._begin()
        if self.steps:
            self.task += 1
        if self.method.info.needs_task_boundaries:
            model = unwrap(self.model)
            self.method.on_task(TaskContext(model, self.optimizer, self.task, inputs, loss))

    @contextlib.contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """Lend the network to an evaluation; with some methods it has other weights than the trained one."""
        self._begin()
        with self.method.evaluated(unwrap(self.model), self.optimizer) as model:
            yield model

    def make_capturable(self) -> None:
        """Get ready for steps that are captured in a CUDA graph, which must leave everything on the device.

        AdamO then does its isometry step in every step, whatever `isometry_every="auto"` would choose.

        Raises:
            IsoplastError: the network is not on a CUDA device; the method acts in a step otherwise than by a
                function of the parameters that is added to the loss; its optimizer cannot be captured.
        """
        for part in _parts(self.method):
            kind = type(part)
            acts = (kind.step, kind.after_step) != (Method.step, Method.after_step)
            if acts or (kind.penalty is not Method.penalty and not isinstance(part, Regulariser)):
                raise IsoplastError(
                    f"a CUDA graph cannot hold the step of method {part.name}, which the host takes part in: "
                    "leave the graph out, or choose a method such as adam, adamo or l2init"
                )
        groups = self.optimizer.param_groups
        if not isinstance(self.optimizer, torch.optim.Adam | torch.optim.AdamW):
            raise IsoplastError(
                f"a CUDA graph cannot hold the step of method {self.method.name}: its optimizer, "
                f"{type(self.optimizer).__name__}, has no capturable form; leave the graph out"
            )
        for group in groups:
            every = group.get("isometry_every", 1)
            if every not in ("auto", 1):
                raise IsoplastError(
                    f"isometry_every={every} of method {self.method.name}: a CUDA graph repeats the same "
                    "work in every step; give 1 or 'auto', or leave the graph out"
                )
        elsewhere = next((p.device for p in self.model.parameters() if p.device.type != "cuda"), None)
        if elsewhere is not None:
            raise IsoplastError(f"a CUDA graph needs a CUDA device, and the network is on {elsewhere}")
        self.optimizer.defaults["capturable"] = True
        for group in groups:
            group["capturable"] = True

    def bound_to(self) -> tuple[Any, ...]:
        """What a captured step would be bound to: where its tensors lie, and the optimizer's numbers.

        Where it has changed, the step must be captured anew.
        """
        held = [*self.model.parameters(), *self.model.buffers()]
        held += [*tensors_in(list(self.optimizer.state.values())), *tensors_in(self.method.state)]
        numbers = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.optimizer.param_groups
        ]
        return (
            [tensor.data_ptr() for tensor in held],
            numbers,
            [module.training for module in self.model.modules()],
        )

    def report(self, steps: int) -> list[str]:
        """Return the lines a user should read before training for that many steps; warnings say so."""
        return self.method.report(self.optimizer, steps)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes, torch's global random generators among it.

        As with torch's own, the tensors are those of the training, not copies: save them before it goes on.
        `torch.load(..., weights_only=True)` reads the file.
        """
        self._begin()
        return {
            "name": self.method.name,
            "model": unwrap(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state,
            "steps": self.steps,
            "task": self.task,
            "generators": [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in self._gpus())],
        }

    def load_state_dict(self, state: dict[str, Any], *, generators: bool = True) -> None:
        """Go on from where another training with the same method and network was, to the same bits.

        Args:
            state: what its `state_dict` returned; it is copied.
            generators: whether torch's global random generators go back too.

        Raises:
            IsoplastError: for the state of another method.
        """
        if state["name"] != self.method.name:
            raise IsoplastError(
                f"the state is that of method {state['name']}, and this training uses {self.method.name}: "
                "make one with the same method"
            )
        self._begin()
        unwrap(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        device = next(self.model.parameters()).device
        self.method.load_state(with_tensors(lambda t: t.detach().to(device, copy=True), state["method"]))
        self.steps, self.task = state["steps"], state["task"]
        if generators:
            host, *gpus = state["generators"]
            torch.set_rng_state(host.cpu())
            for device, value in zip(self._gpus(), gpus, strict=False):  # there may be fewer here
                torch.cuda.set_rng_state(value.cpu(), device)

    def release(self) -> None:
        """Take the method's hooks off the network: training is over, or another method takes over."""
        self.method.release()

    def __repr__(self) -> str:
        return f"Training({self.method.name}, {type(unwrap(self.model)).__name__}, {self.steps} steps)"

    def _begin(self) -> None:
        """Let the method look at the network, once: late, so that weights may be loaded before."""
        if not self._begun:
            self._begun = True
            self.method.begin(unwrap(self.model), self.optimizer)

    def _differentiate(self, closure: Loss, model: nn.Module, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Compute all gradients; returns the task loss and what is minimised, detached."""
        parts = losses(closure(), "the closure of step()")
        # The penalty goes with the first part, while what that fed to the layers is still there.
        first = next(parts)
        penalty = self.method.penalty(model, inputs)
        (first if penalty is None else first + penalty).backward()  # type: ignore[no-untyped-call]
        loss = first.detach()
        for part in parts:
            part.backward()  # type: ignore[no-untyped-call]
            loss = loss + part.detach()
        if self.clip_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        return loss, loss if penalty is None else loss + penalty.detach()

    def _gpus(self) -> list[torch.device]:
        """The CUDA devices that the network is on."""
        devices = {p.device for p in self.model.parameters() if p.device.type == "cuda"}
        return sorted(devices, key=lambda device: device.index or 0)


def _drop_gradients(optimizer: Optimizer) -> None:
    """What `zero_grad(set_to_none=True)` does, without torch's record for its profiler."""
    if type(optimizer).zero_grad is not Optimizer.zero_grad:
        optimizer.zero_grad(set_to_none=True)
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _parts(method: Method) -> tuple[Method, ...]:
    return method.parts if isinstance(method, Combination) else (method,)


def _refuse_used(method: Method) -> None:
    if any(getattr(part, "_used", False) for part in (method, *_parts(method))):
        raise IsoplastError(f"method {method.name} is in use already: make another object for each training")
