"""Sequences of environments: tasks are pure functions of settings, seed and index."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.rl import Actions, EnvironmentProblem, ShiftedControl, control
from isoplast.streams import problem


def first_steps(found: ShiftedControl, seed: int, index: int, purpose: str = "training") -> torch.Tensor:
    environments = found.open(None, seed).task(index).make(4, purpose)
    generator = torch.Generator().manual_seed(0)
    seen = [environments.reset()]
    seen += [environments.step(environments.sample(generator)).observation for _ in range(20)]
    return torch.stack(seen)


@pytest.mark.parametrize("environment", ["acrobot", "cartpole"])
def test_a_task_is_the_same_whenever_it_is_asked_for(environment: str) -> None:
    found = problem("shifted-control", environment=environment, tasks=3)
    assert torch.equal(first_steps(found, 0, 2), first_steps(found, 0, 2))


def test_seeds_indices_and_purposes_have_tasks_of_their_own() -> None:
    found = ShiftedControl(tasks=3)
    shown = [first_steps(found, 0, 0), first_steps(found, 1, 0), first_steps(found, 0, 1)]
    shown.append(first_steps(found, 0, 0, "evaluation"))
    for place, one in enumerate(shown):
        assert not any(torch.equal(one, other) for other in shown[:place])


@pytest.mark.parametrize("features", [4, 16])
def test_the_map_keeps_distances_between_observations(features: int) -> None:
    found = ShiftedControl(features=features, permute_actions=False)
    plain = ShiftedControl(features=None, offset=0.0, permute_actions=False)
    seen, wanted = first_steps(found, 0, 1).flatten(0, 1), first_steps(plain, 0, 1).flatten(0, 1)
    assert seen.shape[1] == features
    torch.testing.assert_close(torch.pdist(seen), torch.pdist(wanted), rtol=1e-4, atol=1e-5)


def test_offsets_and_maps_have_the_distribution_they_promise() -> None:
    sequence = ShiftedControl(tasks=1).open(None, 0)
    drawn = torch.from_numpy(sequence.normal(0, 100_000, part=7))
    # four standard errors of mean, deviation and kurtosis of 1e5 normal numbers
    assert abs(float(drawn.mean())) < 4 / 100_000**0.5
    assert abs(float(drawn.std()) - 1) < 4 / 200_000**0.5
    assert abs(float((drawn**4).mean()) - 3) < 4 * (96 / 100_000) ** 0.5


def test_permutations_of_both_kinds_are_drawn() -> None:
    plain = ShiftedControl(features=None, offset=0.0, permute_actions=False, tasks=20)
    mixed = dataclasses.replace(plain, permute_actions=True)
    same = [torch.equal(first_steps(mixed, 0, index), first_steps(plain, 0, index)) for index in range(20)]
    assert 0 < sum(same) < 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixed(EnvironmentProblem):
    """Claims two actions, and has an Acrobot among its tasks."""

    tasks: int = 2

    def unified(self):  # type: ignore[no-untyped-def]
        return (4,), Actions(2)

    def title(self, source, index):  # type: ignore[no-untyped-def]
        return ("cartpole", "acrobot")[index]

    def make(self, source, index, count, seed, device):  # type: ignore[no-untyped-def]
        return control(self.title(source, index), count, seed, device)


def test_an_environment_that_does_not_fit_the_others_is_refused() -> None:
    sequence = Mixed().open(None, 0)
    assert sequence.task(0).make(2, "training").count == 2
    with pytest.raises(IsoplastError, match=r"task 1 of stream 'Mixed', acrobot: observations \(6,\)"):
        sequence.task(1).make(2, "training")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"environment": "pong"}, "environment of stream shifted-control is 'pong'"),
        ({"features": 3}, "features of stream shifted-control is 3.*give at least 4"),
        ({"offset": -1.0}, "offset of stream shifted-control is -1.0"),
        ({"steps_per_task": 0}, "steps_per_task of stream shifted-control is 0"),
        ({"tasks": 0}, "tasks of stream shifted-control is 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(IsoplastError, match=message):
        problem("shifted-control", **settings)


def test_there_is_no_task_beyond_the_last() -> None:
    with pytest.raises(IsoplastError, match=r"task 3 of stream 'shifted-control': it has tasks 0\.\.2"):
        ShiftedControl(tasks=3).open(None, 0).task(3)
