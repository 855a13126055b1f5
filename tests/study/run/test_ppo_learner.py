"""PPO as a learner: same bits after an interruption, every method, what is measured, what is refused."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from same_bits import assert_same_bits
from test_execute import crash_in_child, kill_at_call

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import ntk
from isoplast.rl import Actions, EnvironmentProblem, Environments, ShiftedControl, Step, churn, control
from isoplast.study import PPO, Run, RunFailed, Study, Switch, execute, load_study, open_run, run_study
from isoplast.study.run._execute import open_problem, start_learner

TINY = {"name": "shifted-control", "tasks": 3, "steps_per_task": 512}


def tiny(**changes: Any) -> Run:
    """A run of 3 tasks x 2 updates x 4 steps."""
    settings: dict[str, Any] = {
        "stream": TINY,
        "learner": PPO(environments=8, rollout=32, epochs=2, minibatches=2, evaluation_episodes=4),
        "net": {"name": "mlp", "width": 16, "depth": 2, "gain": 2**0.5},
        "method": {"name": "adamo", "head": 0.0},
        "lr": 3e-3,
    }
    return Run(**{**settings, **changes})


@pytest.fixture(scope="module")
def rescue() -> Run:
    return tiny(method="adam", switch=Switch(1, {"name": "adamo", "isometry_every": 3}))


@pytest.fixture(scope="module")
def whole(rescue: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return execute(rescue, tmp_path_factory.mktemp("whole")).path


@pytest.mark.parametrize("call", range(0, 34, 4))
def test_killed_at_any_time_it_goes_on_to_the_same_bits(
    rescue: Run, whole: Path, tmp_path: Path, call: int
) -> None:
    code = crash_in_child(rescue, tmp_path / "killed", kill_at_call(call, os, "fsync"))
    assert code in (-signal.SIGKILL, 0)
    assert_same_bits(execute(rescue, tmp_path / "killed").path, whole)


def test_rows_hold_returns_of_training_and_of_evaluation(whole: Path) -> None:
    frame = load_study(whole)
    assert frame["task"].to_list() == [-1, 0, 1, 2]
    assert frame["primary"].unique().to_list() == ["return"]
    assert frame["score"].to_list() == frame["return"].to_list() == frame["episode_length"].to_list()
    assert frame["environment"].unique().to_list() == ["cartpole"]
    assert frame["steps"].to_list() == [0, 8, 8, 8]
    assert frame["return_curve"][0] is None
    for curve, online in zip(frame["return_curve"][1:], frame["online_return"][1:], strict=True):
        known = [value for value in curve if value is not None]
        assert len(curve) == 10
        assert online == pytest.approx(sum(known) / len(known))
    # a random policy keeps the pole up for about 22 steps, with a deviation of about 12 an episode
    assert all(10 < value < 50 for value in frame["chance"])
    assert frame["layers"][0].to_list()[:2] == ["actor.layers.0", "actor.layers.1"]
    for name in ("plasticity", "ntk_condition_number", "jacobian_condition_number", "dormant"):
        assert frame[name].null_count() == 0


def test_policy_and_value_are_measured_apart(whole: Path) -> None:
    frame = load_study(whole)
    opened = open_run(whole)
    with opened.evaluated() as network:
        kernel = ntk(network, opened.inputs[:24])
    last = frame.row(-1, named=True)
    for name, chosen in (("policy", [0, 1]), ("value", [2])):
        alone = kernel.of_outputs(chosen)
        found = last[f"ntk_{name}_condition_number"], last[f"ntk_{name}_participation_rank"]
        assert found == pytest.approx((alone.condition_number, alone.participation_rank))
    assert frame["policy_churn"][0] is None
    assert (frame["policy_churn"][1:] > 0).all()
    assert (frame["value_churn"][1:] > 0).all()


def test_churn_is_of_the_last_update_on_the_rollout_before(tmp_path: Path) -> None:
    run = tiny(instruments=False)
    problem = open_problem(run)
    learner = start_learner(run, problem, 0)
    learner.begin(problem.task(0))
    seen, outputs = [], []
    for unit in range(learner.units):
        if unit == learner.units - 1:
            with torch.no_grad():
                outputs.append(learner.network.eval()(seen[-1]))
        begun = learner._observation  # type: ignore[attr-defined]
        learner.advance()
        seen.append(begun)
        if unit == learner.units - 2:
            seen.append(learner._reference)  # type: ignore[attr-defined]
            assert torch.equal(seen[-1][: len(begun)], begun.float())
    with torch.no_grad():
        outputs.append(learner.network.eval()(seen[-2]))
    policy, value = churn(*outputs)
    found = learner.measure(problem.task(0))
    assert (found["policy_churn"], found["value_churn"]) == pytest.approx((float(policy), float(value)))


def test_a_finished_run_can_be_opened(whole: Path) -> None:
    opened = open_run(whole)
    with opened.evaluated() as network:
        assert network(opened.inputs).shape == (len(opened.inputs), 3)
    assert 20 < len(opened.inputs) <= 1024


def test_measuring_does_not_change_what_is_learned(tmp_path: Path) -> None:
    bare = execute(tiny(instruments=False, learner=PPO(**_learner(evaluation_episodes=1))), tmp_path)
    full = execute(tiny(), tmp_path)
    left, right = (found.load_checkpoint()["learner"]["training"]["model"] for found in (bare, full))  # type: ignore[index]
    assert all(torch.equal(left[name], right[name]) for name in left)


def _learner(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = dict(tiny().learner.settings)
    return {**found, **changes}


def test_a_task_is_rounded_up_to_whole_updates(tmp_path: Path) -> None:
    run = tiny(stream={**TINY, "tasks": 1, "steps_per_task": 513}, instruments=False)
    assert load_study(execute(run, tmp_path).path)["steps"].to_list() == [0, 12]


@pytest.mark.parametrize("name", [name if name != "nap" else "layernorm+nap" for name in methods.names()])
def test_every_method_trains_an_agent(name: str, tmp_path: Path) -> None:
    directory = execute(tiny(method=name, stream={**TINY, "tasks": 2}, instruments=False), tmp_path)
    frame = load_study(directory.path)
    assert frame["task"].to_list() == [-1, 0, 1]
    assert frame["return"].is_finite().all()


@pytest.mark.parametrize("name", ["redo", "cbp", "snr"])
def test_resets_find_the_units_of_actor_and_critic(name: str) -> None:
    run = tiny(method=name)
    learner = start_learner(run, open_problem(run), 0)
    learner.begin(open_problem(run).task(0))
    learner.advance()
    groups = {str(units.group) for units, _ in learner.method.groups}  # type: ignore[attr-defined]
    assert any("actor" in group for group in groups)
    assert any("critic" in group for group in groups)
    assert len(groups) == 4


@pytest.mark.parametrize("shared", [False, True])
def test_continuous_actions_and_shared_networks_train(shared: bool, tmp_path: Path) -> None:
    run = tiny(stream=Pushes(), learner=PPO(**_learner(shared=shared)))
    frame = load_study(execute(run, tmp_path).path)
    assert frame["return"].is_finite().all()
    assert frame["plasticity"].null_count() == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pushes(EnvironmentProblem):
    """A point is to be kept near the origin; some number may be spoilt from a step on."""

    tasks: int = 2
    steps_per_task: int = 512
    spoilt: str = ""

    def unified(self) -> tuple[tuple[int, ...], Actions]:
        return (2,), Actions(2, discrete=False)

    def title(self, source: Any, index: int) -> str:
        return "pushes"

    def make(self, source: Any, index: int, count: int, seed: int, device: torch.device) -> Environments:
        return Points(count, seed, self.spoilt)


class Points(Environments):
    observation_shape, actions, limit = (2,), Actions(2, discrete=False), 20

    def __init__(self, count: int, seed: int, spoilt: str) -> None:
        self.count, self.device, self.spoilt = count, torch.device("cpu"), spoilt
        self.generator = torch.Generator().manual_seed(seed)
        self.time = 0

    def reset(self) -> torch.Tensor:
        self.place = torch.randn(self.count, 2, generator=self.generator)
        return self.place

    def step(self, actions: torch.Tensor) -> Step:
        self.time += 1
        self.place = self.place + 0.1 * actions.clamp(-1, 1)
        reward = -self.place.square().sum(1)
        no, cut = torch.zeros(self.count, dtype=torch.bool), torch.full((self.count,), self.time % 20 == 0)
        final = self.place
        seen = self.reset() if self.time % 20 == 0 else self.place
        if self.time == 40 and self.spoilt:
            (reward if self.spoilt == "reward" else seen)[0] = float("nan")
        return Step(seen, reward, no, cut, {"final_observation": final} if bool(cut.any()) else {})


@pytest.mark.parametrize("spoilt", ["observation", "reward"])
def test_a_number_that_is_none_stops_the_run_and_is_named(spoilt: str, tmp_path: Path) -> None:
    # the 40th step pays the reward with index 39; its observation is what the 41st acts on
    step = {"reward": 39, "observation": 40}[spoilt]
    wanted = rf"the {spoilt} is nan at task 0 \(pushes\), step {step} of copy 0 .*: look at it"
    with pytest.raises(RunFailed, match=wanted):
        execute(tiny(stream=Pushes(spoilt=spoilt), instruments=False), tmp_path)


def test_a_loss_that_is_none_stops_the_run_and_is_named(tmp_path: Path) -> None:
    wanted = r"the loss is (nan|inf) at task 0 \(cartpole\), optimizer step \d+ .*lower the learning rate"
    with pytest.raises(RunFailed, match=wanted):
        execute(tiny(lr=1e20, method="adam", learner=PPO(**_learner(clip_norm=None))), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": {"name": "supervised"}}, "learner supervised trains on data.*choose learner ppo"),
        (
            {"stream": "random-labels"},
            "learner ppo acts in environments, and the tasks of random-labels",
        ),
        ({"data": "digits"}, "stream shifted-control makes its own data"),
        ({"learner": {"name": "ppo", "minibatches": 7}}, "do not divide into 7 minibatches"),
        ({"learner": {"name": "ppo", "gae": 0.9}}, "unknown setting of learner ppo 'gae'"),
        ({"learner": {"name": "ppo", "evaluation_episodes": 0}}, "evaluation_episodes of learner ppo is 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(IsoplastError, match=message):
        tiny(**changes)


def test_more_environments_than_memory_allows_are_refused(tmp_path: Path) -> None:
    run = tiny(learner={"name": "ppo", "environments": 2**34})
    with pytest.raises(IsoplastError, match=r"17179869184 environments x 64 .* GiB.*ask for fewer"):
        execute(run, tmp_path)


def test_a_study_of_agents_runs_in_processes_and_is_reported(tmp_path: Path) -> None:
    from isoplast.report import write_report

    runs = [tiny(method=name, instruments=["weights"]) for name in ("adam", "adamo")]
    outcomes = run_study(Study("agents", runs), tmp_path, jobs=1)
    assert not any(outcome.failure for outcome in outcomes)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Return after each task" in page


def test_the_environments_of_one_s_own_are_named_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "own_environments.py").write_text(
        "import dataclasses, torch\n"
        "from isoplast.rl import Actions, EnvironmentProblem, Shifted, control\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\n"
        "class Offsets(EnvironmentProblem):\n"
        "    def unified(self): return (4,), Actions(2)\n"
        "    def title(self, source, index): return f'offset {index}'\n"
        "    def make(self, source, index, count, seed, device):\n"
        "        inner = control('cartpole', count, seed, device)\n"
        "        return Shifted(inner, offset=torch.full((4,), float(index)))\n"
    )
    text = (
        "name: own\nseeds: [0]\npath: .\nmethods: [adam]\nrun:\n"
        "  stream: {name: 'own_environments:Offsets', tasks: 2, steps_per_task: 64}\n"
        "  learner: {name: ppo, environments: 4, rollout: 16, evaluation_episodes: 2}\n"
        "  net: {name: mlp, width: 8, depth: 1}\n  instruments: false\n"
    )
    study = Study.parse(text, folder=tmp_path)
    frame = load_study(execute(study.runs[0], tmp_path / "runs").path)
    assert frame["environment"].to_list() == ["offset 0", "offset 0", "offset 1"]


def test_closing_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed: list[str] = []
    opened: list[str] = []

    def make(self: ShiftedControl, source: Any, index: int, count: int, *others: Any) -> Environments:
        found = control("cartpole", count, *others)
        opened.append("")
        found.close = lambda: closed.append("")  # type: ignore[method-assign]
        return found

    monkeypatch.setattr(ShiftedControl, "make", make)
    settings = {**TINY, "features": None, "steps_per_task": 64}
    execute(tiny(stream=settings, instruments=False), tmp_path)
    assert len(closed) == len(opened) - 1  # all but the last task's, which go with the process
