"""The Trainer of transformers: optimizer_cls_and_kwargs, the callback, folders from which it resumes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from common import SETTINGS, must_be_equal
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from isoplast import AdamO, param_groups
from isoplast.integrations.transformers import PlasticityCallback

warnings.filterwarnings("ignore")


def language_model() -> GPT2LMHeadModel:
    """A GPT-2 of two small layers, the same one at every call."""
    torch.manual_seed(0)
    drop = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    small = {"vocab_size": 50, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    tokens = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**small, **drop, **tokens)).double()


def sentences() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(50, (32, 16), generator=generator)
    return [{"input_ids": row, "labels": row} for row in drawn]


def arguments(folder: Path, steps: int, **settings: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=SETTINGS["lr"],
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        **{"save_strategy": "no", **settings},
    )


def optimized(model: nn.Module) -> tuple[type[AdamO], dict[str, Any]]:
    """What to hand the Trainer: the model's own groups, since the Trainer's know shapes alone."""
    return AdamO, {"params": param_groups(model), **SETTINGS}


def equal(folder: Path, **_: Any) -> None:
    """The Trainer's steps, with its clipping and schedule, are those of a loop of one's own."""
    model = language_model()
    trainer = Trainer(
        model,
        arguments(folder, 12, lr_scheduler_type="linear", max_grad_norm=1.0),
        train_dataset=sentences(),
        optimizer_cls_and_kwargs=optimized(model),
    )
    order: list[dict[str, Any]] = []
    model.register_forward_pre_hook(lambda _m, _a, kwargs: order.append(kwargs), with_kwargs=True)
    trainer.train()
    report = trainer.optimizer.optimizer.report()
    assert report.matrices == 2 * (3 + 1 + 1 + 1), report  # q, k, v; and no embedding
    other = language_model()
    optimizer = AdamO(other, **SETTINGS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 12)
    for inputs in order:
        other(**inputs).loss.backward()
        nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    must_be_equal(model, other)


class Classifier(nn.Module):
    """A network as the Trainer takes it: the loss is in what it returns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(20, 33), nn.ReLU(), nn.Linear(33, 17), nn.ReLU(), nn.Linear(17, 3)
        )

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        scores = self.layers(inputs)
        return (
            {"logits": scores}
            if labels is None
            else {"loss": cross_entropy(scores, labels), "logits": scores}
        )


def callback() -> PlasticityCallback:
    """ReDo and a monitor."""
    return PlasticityCallback("redo", monitor={"measures": ["weights"], "budget": 0.9}, every=3, tau=0.5)


def resumed(folder: Path, **_: Any) -> None:
    """ReDo, the monitor and AdamO go on from a checkpoint folder to the same bits."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 20, generator=generator)
    data = [{"inputs": row, "labels": row[:3].argmax()} for row in inputs]
    found: list[Classifier] = []
    for start in (None, str(folder / "checkpoint-8")):
        model, following = Classifier(), callback()
        trainer = Trainer(
            model,
            arguments(folder, 16, save_strategy="steps", save_steps=8, label_names=["labels"]),
            train_dataset=data,
            optimizer_cls_and_kwargs=optimized(model),
            callbacks=[following],
        )
        trainer.train(resume_from_checkpoint=start)
        assert following.follow.steps == 16
        assert following.monitor is not None
        assert following.monitor.records[-1]["step"] > 8
        found.append(model)
    must_be_equal(found[1], found[0], tolerance=0.0)
