"""Whether a network and a stream go together, before anything starts."""

from __future__ import annotations

import torch

from isoplast._core.errors import IsoplastError
from isoplast.streams import TaskSequence
from isoplast.study._parts import make
from isoplast.study._spec import Run


def check_network(run: Run, problem: TaskSequence) -> None:
    """Build the network of a run, and show it two examples of the first task.

    Raises:
        IsoplastError: it cannot take the inputs of the stream, or the loss not its outputs, or the stream
            cannot make its first task or the first stage after that.
    """
    task = problem.task(0)
    if problem.stream.gradual is not None and problem.tasks > 1:
        problem.task(1)
    inputs, targets = task.examples.take(torch.arange(min(2, len(task.examples)))).tensor(), task.targets[:2]
    objective = task.objective or problem.objective
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = make("net", run.net).make(problem.input_shape, objective.outputs)
        try:
            loss = objective.loss(network.train()(inputs), targets)
            wrong = "" if loss.dim() == 0 else f"its loss has the shape {tuple(loss.shape)}"
        except Exception as error:  # whatever somebody's network raises
            wrong = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if wrong:
        kind = str(inputs.dtype).removeprefix("torch.")
        raise IsoplastError(
            f"network {run.net.name} cannot learn stream {run.stream.name}, whose inputs are {kind} of shape "
            f"{problem.input_shape} with {objective.outputs} outputs: {wrong}"
        )
