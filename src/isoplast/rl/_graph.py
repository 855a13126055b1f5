"""PPO's update as one CUDA graph."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from isoplast.methods import Training
from isoplast.rl._ppo import Losses, PPOSettings, Rollout, random_orders, update


class GraphedUpdate:
    """`update`, captured as a CUDA graph: the host starts all of its kernels at once.

    The first update is done kernel by kernel, and so is the one after anything that a graph is bound to has
    changed: a tensor of network, optimizer or method that is another one, a learning rate. The next one is
    captured, and replayed from then on. A replay takes the rollout and the orders of its passes as copies,
    and draws these as `update` does.

    Args:
        training: trains the network that acts.
        settings: how PPO learns.

    Raises:
        IsoplastError: the network is not on a CUDA device, or the method's step cannot be captured; see
            `isoplast.methods.Training.make_capturable`.
    """

    def __init__(self, training: Training, settings: PPOSettings) -> None:
        training.make_capturable()
        self.training, self.settings = training, settings
        self._bound: Any = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, found: Rollout) -> Losses:
        """Learn from a rollout; returns the losses before each step, (epochs * minibatches,) each."""
        orders = torch.stack(list(random_orders(self.settings, found.rewards.device)))
        bound = self._bound_to(found)
        if bound != self._bound:
            self._replay = None
            with _on_side_stream(found.rewards.device):
                losses = self._update(found, orders)
            self._bound = self._bound_to(found)
            return losses
        before = self.training.steps
        if self._replay is None:
            self._found, self._orders = Rollout(*map(torch.clone, found)), orders.clone()
            self._replay, self._losses = captured(lambda: self._update(self._found, self._orders))
        for held, new in zip(self._found, found, strict=True):
            held.copy_(new)
        self._orders.copy_(orders)
        self._replay()
        self.training.steps = before + self.settings.epochs * self.settings.minibatches
        return Losses(*map(torch.clone, self._losses))

    def _update(self, found: Rollout, orders: Tensor) -> Losses:
        def step(closure: Callable[[], Tensor], inputs: Tensor) -> Tensor:
            return self.training.step(closure, inputs=inputs)

        return update(step, self.training.model, found, self.settings, orders)

    def _bound_to(self, found: Rollout) -> Any:
        return self.training.bound_to(), [(part.shape, part.dtype) for part in found]


def captured(call: Callable[[], Losses]) -> tuple[Callable[[], None], Losses]:
    """What does again all that a call does on the device, and where its results will then be.

    The call itself does nothing there.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as JAX's, go on with what they do meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        losses = call()
    return graph.replay, losses


@contextlib.contextmanager
def _on_side_stream(device: torch.device) -> Iterator[None]:
    """Do something on a stream of its own, as what is to be captured later has to be done once before."""
    main = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(main)
    with torch.cuda.stream(stream), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*capturable=True")
        yield
    main.wait_stream(stream)
