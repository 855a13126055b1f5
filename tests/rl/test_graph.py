"""PPO's update as a CUDA graph: what it may hold, and that it does what `update` does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.methods import Training, training
from isoplast.nn import spec
from isoplast.rl import ActorCritic, GraphedUpdate, Losses, PPOSettings, control, rollout, update
from isoplast.streams import problem
from isoplast.study import Run, execute

SETTINGS = PPOSettings(environments=4, rollout=8, epochs=2, minibatches=2)
STEPS = SETTINGS.epochs * SETTINGS.minibatches
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")


def fresh(method: str = "adam", device: str = "cpu", **settings: Any) -> Training:
    """A new agent for CartPole."""
    torch.manual_seed(0)
    environments = control("cartpole", 1, seed=0)
    network = ActorCritic(spec("mlp", width=8), environments.observation_shape, environments.actions)
    return training(method, network, clip_norm=0.5, device=device, **settings)


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("redo", {}, "cannot hold the step of method redo, which the host takes part in"),
        ("sam", {}, "cannot hold the step of method sam, which the host takes part in"),
        ("c-chain", {}, "cannot hold the step of method c-chain, which the host takes part in"),
        ("adamo+nap+layernorm", {}, "cannot hold the step of method nap, which the host takes part in"),
        ("muon", {}, "has no capturable form"),
        ("adamo", {"isometry_every": 5}, "isometry_every=5 of method adamo"),
        ("adam", {}, "the network is on cpu"),
        ("adamo+layernorm", {}, "the network is on cpu"),
        ("l2init", {}, "the network is on cpu"),
        ("full-reset", {}, "the network is on cpu"),
    ],
)
def test_what_cannot_be_captured_is_refused_in_one_line(
    method: str, settings: dict[str, Any], said: str
) -> None:
    """A method that acts in a step, an optimizer without the form, and the CPU."""
    with pytest.raises(IsoplastError, match=said) as caught:
        GraphedUpdate(fresh(method, **settings), SETTINGS)
    assert "\n" not in str(caught.value)


def test_a_study_on_the_cpu_says_so(tmp_path: Any) -> None:
    """The setting is refused before anything is trained."""
    learner = {"name": "ppo", "environments": 4, "rollout": 8, "graph": "update"}
    run = Run(stream=problem("shifted-control", tasks=1, steps_per_task=32), learner=learner, net="mlp")
    with pytest.raises(IsoplastError, match="a CUDA graph needs a CUDA device, and the network is on cpu"):
        execute(run, tmp_path)


class Recorded:
    """Stands in for a CUDA graph on the CPU: a capture does nothing, a replay does what was captured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.captures = self.replays = self.eager = 0
        monkeypatch.setattr(Training, "make_capturable", lambda training: None)
        monkeypatch.setattr("isoplast.rl._graph.captured", self.captured)
        monkeypatch.setattr("isoplast.rl._graph._on_side_stream", self.on_side_stream)

    def captured(self, call: Callable[[], Losses]) -> tuple[Callable[[], None], Losses]:
        held = Losses(*(torch.zeros(STEPS) for _ in Losses._fields))
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            for old, new in zip(held, call(), strict=True):
                old.copy_(new)

        return replay, held

    @contextlib.contextmanager
    def on_side_stream(self, device: torch.device) -> Any:
        self.eager += 1
        yield


def both(
    method: str, updates: int, disturb: Callable[[Training, int], None], device: str = "cpu"
) -> tuple[Training, Training]:
    """Two agents after updates on the same rollouts, the second one's as a graph."""
    one, other = fresh(method, device), fresh(method, device)
    if device != "cpu":
        one.make_capturable()  # AdamO then does the same work in every step
    graphed = GraphedUpdate(other, SETTINGS)
    environments = control("cartpole", SETTINGS.environments, seed=0, device=device)
    seen = environments.reset()
    for number in range(updates):
        found = rollout(one.model, environments, seen, SETTINGS.rollout)
        seen = found.next_observation
        torch.manual_seed(number)
        losses = update(lambda loss, x: one.step(loss, inputs=x), one.model, found, SETTINGS)
        torch.manual_seed(number)
        again = graphed(found)
        for mine, theirs in zip(losses, again, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0 if device == "cpu" else 1e-5)
        for run in (one, other):
            torch.manual_seed(number)
            disturb(run, number)
    return one, other


def same(one: Training, other: Training, tolerance: float = 0.0) -> None:
    """Both have the same weights and counts."""
    assert one.steps == other.steps
    for (name, mine), theirs in zip(
        one.model.state_dict().items(), other.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(
            mine, theirs, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def at_a_switch(run: Training, number: int) -> None:
    """A new task begins after the fourth update."""
    if number == 3:
        run.new_task()


@pytest.mark.parametrize("method", ["adam", "adamo+layernorm", "l2init"])
def test_a_graph_learns_what_the_update_learns(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One update kernel by kernel, one capture, and the same bits."""
    recorded = Recorded(monkeypatch)
    same(*both(method, 5, at_a_switch))
    assert (recorded.eager, recorded.captures, recorded.replays) == (1, 1, 4)


def test_a_graph_is_captured_anew_after_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer's state of the reset layers is another one then."""
    recorded = Recorded(monkeypatch)
    same(*both("full-reset", 7, at_a_switch))
    assert (recorded.eager, recorded.captures, recorded.replays) == (2, 2, 5)


def forget(run: Training) -> None:
    """Drop the optimizer's state."""
    run.optimizer.state.clear()


def halve(run: Training) -> None:
    """Halve the learning rates."""
    for group in run.optimizer.param_groups:
        group["lr"] /= 2


def replace(run: Training) -> None:
    """Put the weights elsewhere."""
    for parameter in run.model.parameters():
        parameter.data = parameter.data.clone() + 1.0


@pytest.mark.parametrize("change", [forget, halve, replace])
def test_a_graph_is_captured_anew_when_what_it_holds_changes(
    change: Callable[[Training], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would otherwise go on with what was there before."""
    recorded = Recorded(monkeypatch)
    same(*both("adam", 6, lambda run, number: change(run) if number == 2 else None))
    assert (recorded.eager, recorded.captures, recorded.replays) == (2, 2, 4)


@needs_cuda
@pytest.mark.parametrize("method", ["adam", "adamo+layernorm", "l2init", "full-reset"])
def test_on_a_gpu_a_graph_learns_what_the_update_learns(method: str) -> None:
    """To rounding; a new task in between."""
    same(*both(method, 7, at_a_switch, "cuda"), tolerance=1e-4)
