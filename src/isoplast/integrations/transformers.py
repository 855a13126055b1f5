"""A callback for the Trainer of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from isoplast.diagnostics import Monitor
from isoplast.integrations._follow import Follow
from isoplast.methods import Method

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"isoplast.integrations.transformers needs {error.name}: pip install transformers", name=error.name
    ) from None

_FILE = "plasticity.pt"


class PlasticityCallback(TrainerCallback):
    """Runs a method or a monitor, or both, in a training by transformers' Trainer.

    What they remember is in each of the Trainer's checkpoint folders (``plasticity.pt``), and is read when a
    training resumes from it. The monitor's numbers are in ``callback.monitor.records``.

    Args:
        method: a method's name, or a method; see :class:`isoplast.integrations.Follow` for which ones.
        monitor: settings of :class:`isoplast.Monitor`, such as ``{"measures": ["weights"]}``; None for none.
        task: tells the number of the task from the TrainerState, at the start of every epoch, for methods
            that need task boundaries: ``lambda state: int(state.epoch) // 2``.
        settings: of the method.

    Example:
        >>> callback = PlasticityCallback(monitor={"measures": ["weights"]})  # doctest: +SKIP
        >>> Trainer(model, args, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(
        self,
        method: str | Method | None = None,
        *,
        monitor: dict[str, Any] | None = None,
        task: Callable[[Any], int] | None = None,
        **settings: Any,
    ) -> None:
        make = None if monitor is None else lambda net, opt: Monitor(net, opt, **monitor)
        self.follow = Follow(method, make, **settings)
        self._task = task

    @property
    def monitor(self) -> Monitor | None:
        """The monitor, from the start of the training on."""
        return self.follow.monitor

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts to follow the optimizer, where a checkpoint left off if there is one."""
        if state.global_step:
            saved = _folder(args, state) / _FILE
            if saved.exists():
                self.follow.load_state_dict(torch.load(saved, weights_only=True))
        self.follow.start(kwargs["model"], kwargs["optimizer"])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks whether another task begins."""
        if self._task is not None and (self.follow.steps == 0 or self._task(state) != self.follow.task):
            self.follow.new_task()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds a file to the checkpoint that was just written."""
        folder = _folder(args, state)
        if state.is_world_process_zero and folder.is_dir():
            torch.save(self.follow.state_dict(), folder / _FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes the hooks off."""
        self.follow.stop()


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
