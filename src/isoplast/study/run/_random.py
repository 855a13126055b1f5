"""Random numbers that a run can be resumed with: derived where possible, saved and restored elsewhere."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def derive(*path: int | str) -> int:
    """A seed of 63 bits for a purpose, such as derive(seed, "order", task, epoch)."""
    digest = hashlib.sha256("/".join(map(str, path)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def order(size: int, *path: int | str) -> Tensor:
    """A random permutation of 0 .. size - 1 that depends on the path alone, int64 (size,)."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(derive(*path)))


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (all devices), numpy and Python."""
    torch.manual_seed(derive(seed, "torch"))
    np.random.seed(derive(seed, "numpy") % 2**32)  # noqa: NPY002 -- methods of other people's code may draw from it
    random.seed(derive(seed, "python"))


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of all global generators as tensors and numbers."""
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    version, words, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": {
            "keys": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
            "position": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "python": [version, torch.tensor(words), next_gauss],
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set all global generators to a state that `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["device"] is not None:
        torch.cuda.set_rng_state(state["device"], device)
    numpy = state["numpy"]
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["gauss"]))  # noqa: NPY002
    version, words, next_gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), next_gauss))


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Leave the global generators of torch (on the CPU), numpy and Python as they were."""
    host = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(host[0])
        np.random.set_state(host[1])  # noqa: NPY002
        random.setstate(host[2])


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Let torch compute the same bits every time while the block runs, and leave all settings as they were.

    Args:
        threads: number of threads for one operation. The result depends on it: sums are split by it.
    """
    before = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    # warn_only: a GPU kernel without a deterministic form must not stop a run.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with random_numbers_kept():
            yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
