from __future__ import annotations

import pytest
import torch

from isoplast.data import Dataset
from isoplast.streams import stream

RECORDED = {0: [3, 2, 4, 9, 0, 7, 5, 6, 0, 6, 6, 5], 23: [3, 6, 3, 4, 5, 6, 6, 9, 9, 9, 8, 3]}


def made_up(samples: int, classes: int) -> Dataset:
    return Dataset(
        name="made-up",
        inputs=torch.zeros(samples, 2),
        targets=torch.zeros(samples, dtype=torch.int64),
        classes=classes,
        note="made up",
        fingerprint="0",
    )


def test_labels_are_the_same_on_every_platform_and_numpy() -> None:
    """Recorded once. If this fails, every random-label result ever stored has become irreproducible."""
    labels = stream("random-labels", made_up(12, 10), tasks=24, seed=0)
    assert labels.task(0).targets.tolist() == RECORDED[0]
    assert labels.task(23).targets.tolist() == RECORDED[23]


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_labels_are_uniform_within_a_task(classes: int) -> None:
    counts = stream("random-labels", made_up(20_000, classes), tasks=2, seed=1).task(1).targets.bincount()
    expected = 20_000 / classes
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    # Mean classes - 1, variance 2 (classes - 1): five standard deviations above the mean.
    assert len(counts) == classes
    assert chi_square < (classes - 1) + 5 * (2 * (classes - 1)) ** 0.5


def test_tasks_are_independent() -> None:
    """Two tasks agree on a label about once in ten: nothing of one task helps with the next."""
    labels = stream("random-labels", made_up(20_000, 10), tasks=3, seed=1)
    agreement = (labels.task(0).targets == labels.task(1).targets).float().mean().item()
    # Standard error sqrt(.1 * .9 / 20 000) = .0021; five of them.
    assert abs(agreement - 0.1) < 0.011


def test_inputs_are_shared_not_copied() -> None:
    data = made_up(10, 10)
    assert stream("random-labels", data, tasks=2, seed=0).task(1).inputs is data.inputs


def test_a_prefix_of_the_images_keeps_its_labels() -> None:
    """Growing the subset does not relabel what was there: bits belong to (seed, task, position)."""
    small = stream("random-labels", made_up(100, 10), tasks=2, seed=0).task(1).targets
    large = stream("random-labels", made_up(200, 10), tasks=2, seed=0).task(1).targets
    assert torch.equal(small, large[:100])
