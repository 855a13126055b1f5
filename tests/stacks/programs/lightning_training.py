"""Lightning: the optimizer, the callbacks, checkpoints that resume, modes of schedule-free optimizers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import SETTINGS, adamo, mlp, must_be_equal
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from isoplast import attach
from isoplast.integrations.lightning import PlasticityCallback, ScheduleFreeCallback

warnings.filterwarnings("ignore", module="lightning")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(LightningModule):
    """A classifier; how its optimizer is made is handed in."""

    def __init__(self, make: Callable[[nn.Module], Optimizer]) -> None:
        super().__init__()
        self.model, self.make = mlp(dtype=torch.float32), make
        self.validated: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        return cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        self.validated.append(self.model[2].weight.detach().clone())

    def configure_optimizers(self) -> Optimizer:
        return self.make(self.model)


def rows() -> DataLoader[Any]:
    """Sixty-four rows in batches of 16, always in the same order."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 20, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=16)


def trainer(epochs: int, folder: Path, *callbacks: Any, **settings: Any) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **{"enable_checkpointing": False, **settings},
    )


def equal(folder: Path, **_: Any) -> None:
    """AdamO in configure_optimizers, with accumulation and clipping, is AdamO in a loop of one's own."""
    module = Module(adamo)
    trainer(5, folder, accumulate_grad_batches=2, gradient_clip_val=1.0).fit(module, rows())
    model = mlp(dtype=torch.float32)
    optimizer = adamo(model)
    for _epoch in range(5):
        for number, (inputs, targets) in enumerate(rows()):
            (cross_entropy(model(inputs), targets) / 2).backward()
            if number % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    must_be_equal(module.model, model)


def plasticity() -> PlasticityCallback:
    """ReDo and a monitor."""
    return PlasticityCallback(
        "redo", network="model", monitor={"measures": ["weights"], "budget": 0.9}, every=3, tau=0.5
    )


def resumed(folder: Path, **_: Any) -> None:
    """ReDo, the monitor and AdamO go on from a checkpoint of Lightning's to the same bits."""
    torch.manual_seed(2)
    whole, callback = Module(adamo), plasticity()
    saving = ModelCheckpoint(folder, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    trainer(4, folder, callback, saving, RandomState(), enable_checkpointing=True).fit(whole, rows())
    assert callback.follow.steps == 16
    assert callback.monitor is not None
    assert callback.monitor.records
    again, other = Module(adamo), plasticity()
    trainer(4, folder, other, RandomState()).fit(again, rows(), ckpt_path=folder / "epoch=1.ckpt")
    assert other.follow.steps == 16
    must_be_equal(again.model, whole.model, tolerance=0.0)
    untouched = Module(adamo)
    trainer(4, folder).fit(untouched, rows())
    difference = max(
        (p - q).abs().max().item()
        for p, q in zip(whole.model.parameters(), untouched.model.parameters(), strict=True)
    )
    assert difference > 1e-2, "ReDo did nothing"


def schedule_free(folder: Path, **_: Any) -> None:
    """Validation sees the averaged weights, training goes on from the others, and all become isometric."""
    import schedulefree

    def make(model: nn.Module) -> Optimizer:
        optimizer = schedulefree.AdamWScheduleFree(model.parameters(), lr=SETTINGS["lr"])
        attach(optimizer, isometry=3.0, model=model)
        return optimizer

    module = Module(make)
    trainer(20, folder, ScheduleFreeCallback()).fit(module, rows(), rows())
    assert len(module.validated) >= 80
    # Switching there and back rounds twice.
    assert (module.validated[-1] - module.model[2].weight).abs().max() < 1e-5
    values = torch.linalg.svdvals(module.model[2].weight.detach())
    assert 0.7 < values.min() < values.max() < 1.4, values


class RandomState(Callback):
    """Makes random numbers depend on the step alone: Lightning leaves their state out of its checkpoints."""

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        torch.manual_seed(trainer.global_step)
