"""Callbacks for Lightning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import Monitor
from isoplast.integrations._follow import Follow
from isoplast.methods import Method

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"isoplast.integrations.lightning needs {error.name}: pip install lightning", name=error.name
    ) from None


class PlasticityCallback(Callback):
    """Runs a method or a monitor, or both, in a Lightning training; both are in its checkpoints.

    The numbers of the monitor are logged as "plasticity/..." whenever there are new ones.

    Args:
        method: a method's name, or a method; see :class:`isoplast.integrations.Follow` for which ones.
        monitor: settings of :class:`isoplast.Monitor`, such as ``{"measures": ["weights"]}``; None for none.
        network: name of the LightningModule's attribute that is the network ("model"); None: itself.
        optimizer: number of the optimizer that trains it, where there are several.
        task: tells the number of the task from the trainer, at the start of every epoch, for methods that
            need task boundaries: ``lambda trainer: trainer.current_epoch // 10``.
        settings: of the method.

    Example:
        >>> callback = PlasticityCallback("redo", network="model", every=500)  # doctest: +SKIP
        >>> Trainer(callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(
        self,
        method: str | Method | None = None,
        *,
        monitor: dict[str, Any] | None = None,
        network: str | None = None,
        optimizer: int = 0,
        task: Callable[[Trainer], int] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        make = None if monitor is None else lambda net, opt: Monitor(net, opt, **monitor)
        self.follow = Follow(method, make, **settings)
        self._network, self._number, self._task = network, optimizer, task
        self._logged = 0

    @property
    def monitor(self) -> Monitor | None:
        """The monitor, from the start of the training on."""
        return self.follow.monitor

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets a method that changes the network do so, before the optimizer is made."""
        method = self.follow.method
        if stage != "fit" or method is None or self._network is None:
            return
        network = self._network_of(pl_module)
        prepared = self.follow.prepare(network)
        if prepared is not network:
            setattr(pl_module, self._network, prepared)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to follow the optimizer."""
        if self._number >= len(trainer.optimizers):
            raise IsoplastError(
                f"optimizer={self._number}, and the module made {len(trainer.optimizers)} of them"
            )
        self.follow.start(self._network_of(pl_module), trainer.optimizers[self._number])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks whether another task begins."""
        if self._task is not None and (self.follow.steps == 0 or self._task(trainer) != self.follow.task):
            self.follow.new_task()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs what the monitor measured in this step."""
        records = [] if self.monitor is None else self.monitor.records
        if records and records[-1]["step"] > self._logged:
            self._logged = int(records[-1]["step"])
            found = {f"plasticity/{name}": value for name, value in records[-1].items() if "/" in name}
            for logger in trainer.loggers:
                logger.log_metrics(found, step=trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the time of an evaluation out of the monitor's budget."""
        if self.monitor is not None and not trainer.sanity_checking:
            self.monitor.pause()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the hooks off, also where the training failed."""
        self.follow.stop()

    def state_dict(self) -> dict[str, Any]:
        """What method and monitor remember."""
        return self.follow.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it over when the training starts."""
        self.follow.load_state_dict(state_dict)

    def _network_of(self, module: LightningModule) -> nn.Module:
        found = module if self._network is None else getattr(module, self._network, None)
        if not isinstance(found, nn.Module):
            raise IsoplastError(
                f"{type(module).__name__} has no module named {self._network!r}: say network="
            )
        return found


class ScheduleFreeCallback(Callback):
    """Switches optimizers with train and eval modes (schedule-free ones) with Lightning's own modes.

    Without it a schedule-free optimizer raises in its first step. Validation, and what is left at the end,
    have the averaged weights; a checkpoint on the way has those that training goes on from, and the
    optimizer's state, which leads from one to the other.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """To the weights at which gradients are taken."""
        _switch(trainer, "train")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """To the averaged weights."""
        _switch(trainer, "eval")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back, if training goes on."""
        if trainer.training or (trainer.state.fn == "fit" and not trainer.sanity_checking):
            _switch(trainer, "train")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """To the averaged weights, which are the result."""
        _switch(trainer, "eval")


def _switch(trainer: Trainer, mode: str) -> None:
    for optimizer in trainer.optimizers:
        if hasattr(optimizer, mode):
            getattr(optimizer, mode)()
