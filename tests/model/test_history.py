"""Checkpoints of a directory are ordered by training step, whatever else their names hold."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from isoplast.model import checkpoint_history

SERIES = {
    "steps": ["step-9", "step-20", "step-100"],
    "metric behind": ["epoch=00-val_loss=0.90", "epoch=01-val_loss=0.50", "epoch=02-val_loss=0.10"],
    "metric before": ["val_loss=0.90-epoch=2", "val_loss=0.10-epoch=3", "val_loss=0.50-epoch=10"],
    "keras": ["weights.01-0.9123", "weights.02-0.5011", "weights.10-0.1004"],
    "whole metrics": ["epoch_1_acc_91", "epoch_2_acc_93", "epoch_10_acc_89"],
    "step and epoch": ["epoch=0-step=900", "epoch=1-step=1800", "epoch=2-step=2700"],
    "version": ["epoch=0-step=100", "epoch=1-step=200", "epoch=2-step=300-v1"],
    "name with a number": ["resnet50_9", "resnet50_20", "resnet50_100"],
    "iterations": ["iter_5000", "iter_10000", "iter_20000"],
    "plain": ["2", "10", "33"],
    "global": ["global_step5", "global_step50", "global_step500"],
    "no number": ["first", "then", "last"],
    "some numbers": ["best", "step-3", "last"],
}


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("ending", [".pt", ".pth.tar", ".safetensors"])
def test_files_are_in_the_order_of_training(tmp_path: Path, name: str, ending: str) -> None:
    ordered = "number" in name and name != "name with a number"
    for age, stem in enumerate(SERIES[name]):
        (tmp_path / f"{stem}{ending}").write_bytes(b"")
        time = 1000 + (age if ordered else -age)  # the times lie where names tell
        os.utime(tmp_path / f"{stem}{ending}", (time, time))
    assert [found for found, _ in checkpoint_history(tmp_path)] == SERIES[name]


def test_what_lies_beside_weights_is_no_checkpoint(tmp_path: Path) -> None:
    beside = (
        "optimizer.pt",
        "policy.optimizer.pth",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "notes.txt",
    )
    for name in (*beside, "replay_buffer.pt", "model_1.pt", "model_2.pt"):
        (tmp_path / name).write_bytes(b"")
    assert [name for name, _ in checkpoint_history(tmp_path)] == ["model_1", "model_2"]


def test_the_order_does_not_depend_on_that_of_the_folder(tmp_path: Path) -> None:
    for number, names in enumerate(itertools.permutations(["a-1.5-9", "a-0.3-20", "a-7.25-100"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            (folder / f"{name}.pt").write_bytes(b"")
        assert [name for name, _ in checkpoint_history(folder)] == ["a-1.5-9", "a-0.3-20", "a-7.25-100"]
