"""The examples of training stacks run as a user runs them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

STACKS = Path(__file__).parents[2] / "examples" / "stacks"
# Builds of torchvision fit one build of torch each, and few machines have the one.
WITHOUT_TORCHVISION = Path(__file__).parents[1] / "stacks" / "programs" / "timm_without_torchvision.py"
OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node", "2")

# The example, what it needs, and what it must say.
EXAMPLES: dict[str, tuple[tuple[str, ...], str]] = {
    "accelerate_loop": (("accelerate",), r"after 160 steps\nsaved and loaded"),
    "lightning_module": (("lightning",), r"after 160 steps\nthe monitor measured \d+ times"),
    "lora": (("peft",), r"refused: isometry was asked for [\s\S]*2 matrices[\s\S]*A: singular values"),
    "optax_training": (("jax", "optax"), r"singular values of the middle layer"),
    "stable_baselines": (("stable_baselines3",), r"5 matrices[\s\S]*256 optimizer steps, 2 changes of task"),
    "timm_layer_decay": (("timm",), r"matrices[\s\S]*loss 0"),
    "training_loop": ((), r"trained: accuracy [5-9]\d"),
    "transformers_trainer": (("transformers", "accelerate"), r"12 matrices[\s\S]*in 100 steps"),
}


def output_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env={**os.environ, **OFFLINE}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_example_is_forgotten_or_long() -> None:
    found = {path.stem: path for path in STACKS.glob("*.py")}
    assert found.keys() == {*EXAMPLES, "distributed"}
    for path in found.values():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 60, path


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    needs, says = EXAMPLES[name]
    for package in needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    through = [str(WITHOUT_TORCHVISION)] if "timm" in needs else []
    text = output_of(*through, str(STACKS / f"{name}.py"))
    assert re.search(says, text), text


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "zero"])
def test_distributed(kind: str) -> None:
    text = output_of(*TORCHRUN, str(STACKS / "distributed.py"), kind)
    assert f"{kind}, step 200: loss" in text
    assert kind != "fsdp" or "saved and loaded" in text
