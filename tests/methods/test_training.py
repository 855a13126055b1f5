"""A method in anybody's loop: classification, regression, language, an agent; and going on from a file."""

from __future__ import annotations

import copy
import functools
import io
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from contract_runs import busy, different, example, started, step, train, values
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import Method, MethodInfo, StepContext, TaskContext, Training, training
from isoplast.nn import build
from isoplast.testing._networks import Agent

# One or two of every family, those with hooks of every kind among them.
FAMILIES = (
    "adam", "adamo", "isometry-penalty", "fire", "spectral-norm", "l2init", "dash", "shrink-perturb-tasks",
    "redo", "cbp", "head-reset", "hare-tortoise", "sam", "schedule-free", "layernorm", "maxmin", "dropout",
    "c-chain", "redo+layernorm", "sam+adamo",
)  # fmt: skip


def mlp(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, outputs))


class Classification:
    """Three clusters."""

    network = staticmethod(lambda: mlp(3))

    def batch(self, generator: torch.Generator) -> tuple[Any, Any]:
        targets = torch.randint(3, (32,), generator=generator)
        return torch.randn(32, 4, generator=generator) * 0.3 + torch.eye(3, 4)[targets], targets

    def loss(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        return cross_entropy(model(inputs), targets)


class Regression(Classification):
    """A linear map."""

    network = staticmethod(lambda: mlp(2))

    def batch(self, generator: torch.Generator) -> tuple[Any, Any]:
        inputs = torch.randn(32, 4, generator=generator)
        return inputs, inputs[:, :2] - inputs[:, 2:]

    def loss(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        return mse_loss(model(inputs), targets)


class Language(Classification):
    """Counting: the next token is one more."""

    network = staticmethod(lambda: build("gpt", input_shape=(8,), classes=5, width=16, depth=1, heads=2))

    def batch(self, generator: torch.Generator) -> tuple[Any, Any]:
        tokens = (torch.randint(5, (8, 1), generator=generator) + torch.arange(9)) % 5
        return tokens[:, :-1], tokens[:, 1:]

    def loss(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        return cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


class PolicyGradient(Classification):
    """An actor-critic on a bandit whose best arm the observation shows; the loss has no targets at all."""

    network = staticmethod(Agent)

    def batch(self, generator: torch.Generator) -> tuple[Any, Any]:
        best = torch.randint(3, (32,), generator=generator)
        noise = 0.3 * torch.randn(32, 6, generator=generator)
        return noise + torch.eye(3, 6)[best], (best, torch.rand(32, 1, generator=generator))

    def loss(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        best, uniform = targets
        logits, value = model(inputs)
        actions = (logits.softmax(-1).detach().cumsum(-1) < uniform).sum(-1).clamp(max=2)
        rewards = (actions == best).float()
        advantage = rewards - value
        policy = -(advantage.detach() * logits.log_softmax(-1).gather(1, actions[:, None])[:, 0]).mean()
        return policy + 0.5 * advantage.square().mean()

    def score(self, model: nn.Module) -> float:
        inputs, (best, _) = self.batch(torch.Generator().manual_seed(99))
        return float((model(inputs)[0].argmax(-1) == best).float().mean())


PROBLEMS: dict[str, Classification] = {
    "classification": Classification(),
    "regression": Regression(),
    "language": Language(),
    "agent": PolicyGradient(),
}


def worth(problem: Classification, model: nn.Module) -> float:
    """The loss on a batch of its own; of the agent, the share of wrong choices."""
    if isinstance(problem, PolicyGradient):
        return 1.0 - problem.score(model)
    return float(problem.loss(model, *problem.batch(torch.Generator().manual_seed(99))))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", PROBLEMS)
def test_any_loss_is_learned_with_a_method_of_every_family(kind: str, name: str) -> None:
    """Half of the initial loss is gone after some steps; a new task began after the 20th."""
    problem = PROBLEMS[kind]
    torch.manual_seed(0)
    run = training(name, problem.network(), lr=1e-2, clip_norm=1.0)
    generator = torch.Generator().manual_seed(0)

    def losses() -> Iterator[Tensor]:
        for _ in range(2):
            yield problem.loss(run.model, *problem.batch(torch.Generator().manual_seed(7)))

    with run.evaluated() as model, torch.no_grad():
        before = worth(problem, model.eval())
    run.model.train()
    steps = 250 if kind == "agent" else 120
    for number in range(steps):
        inputs, targets = problem.batch(generator)
        if number in (0, 20):
            run.new_task(inputs, losses)
        loss = run.step(lambda x=inputs, y=targets: problem.loss(run.model, x, y), inputs=inputs)
        assert loss.isfinite()
        assert not loss.requires_grad
    assert (run.steps, run.task) == (steps, 1)
    # The tortoise is an average over 1000 steps, at its source's settings.
    wanted = 1.0 if name == "hare-tortoise" else 0.5
    with run.evaluated() as model, torch.no_grad():
        assert worth(problem, model.eval()) < wanted * before


@pytest.mark.parametrize("name", methods.names())
def test_every_method_goes_on_from_a_file_to_the_same_bits(name: str) -> None:
    """In a fresh process nothing is the same but the file: another seed, other initial weights."""
    problem, together = PROBLEMS["classification"], example(name)
    batches = [problem.batch(torch.Generator().manual_seed(seed)) for seed in range(24)]

    def steps(run: Training, first: int) -> dict[str, Tensor]:
        for number, (inputs, targets) in list(enumerate(batches))[first : first + 12]:
            loss = functools.partial(problem.loss, run.model, inputs, targets)
            if number % 6 == 0:
                run.new_task(inputs, loss)
            run.step(loss, inputs=inputs)
        return values(run.model)

    torch.manual_seed(0)
    run = training(together, problem.network(), lr=1e-2, **busy(together))
    steps(run, 0)
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    expected = steps(run, 12)
    file.seek(0)
    torch.manual_seed(5)
    resumed = training(together, problem.network(), lr=1e-2, **busy(together))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert (resumed.steps, resumed.task) == (12, 1)
    assert different(steps(resumed, 12), expected) == []


def test_two_trainings_that_one_state_was_loaded_into_share_nothing() -> None:
    name = "hare-tortoise+l2init"
    run = started(name)
    train(run, 5)
    state = run.state_dict()
    twins = [started(name) for _ in range(2)]
    for twin in twins:
        twin.load_state_dict(state)
    parts = ("model", "optimizer", "method")

    def states() -> list[Any]:
        return [each.state_dict()[part] for each in (twins[0], run) for part in parts]

    before = copy.deepcopy(states())
    train(twins[1], 3)
    torch.testing.assert_close(states(), before, rtol=0, atol=0)
    assert twins[1].steps == 8


def test_the_generators_go_back_only_if_they_should() -> None:
    run = started("adam")
    state = run.state_dict()
    drawn = torch.rand(3)
    now = torch.get_rng_state()
    run.load_state_dict(state, generators=False)
    assert torch.equal(torch.get_rng_state(), now)
    run.load_state_dict(state)
    assert torch.equal(torch.rand(3), drawn)


def test_the_state_of_another_method_is_refused() -> None:
    with pytest.raises(IsoplastError, match="the state is that of method redo, and this training uses adam"):
        started("adam").load_state_dict(started("redo").state_dict())


# --- what a step is -------------------------------------------------------------------------------------


DATA = torch.ones(2, 6), torch.tensor([0, 2])


def test_the_loss_is_the_task_loss_before_the_step_without_the_penalty() -> None:
    run = started("l2", strength=100.0)
    expected = cross_entropy(run.model(DATA[0]), DATA[1]).detach()
    seen: list[StepContext] = []
    object.__setattr__(run.method, "after_step", seen.append)
    assert torch.equal(step(run, DATA), expected)
    (context,) = seen
    assert torch.equal(context.loss, expected)
    assert (context.step, context.model, context.optimizer) == (1, run.model, run.optimizer)
    assert context.inputs is DATA[0]
    # The penalty is in the gradient: 100 theta, next to which the task's is small.
    torch.testing.assert_close(run.model.head.weight.grad / 100, network_weight(), atol=0.02, rtol=0)


def network_weight() -> Tensor:
    return started("adam").model.head.weight.detach()


def test_a_step_with_adam_is_torchs_own_loop_to_the_bit() -> None:
    run = started("adam")
    twin = copy.deepcopy(run.model)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2, fused=True)
    for _ in range(5):
        step(run, DATA)
        optimizer.zero_grad()
        cross_entropy(twin(DATA[0]), DATA[1]).backward()
        optimizer.step()
    assert different(values(run.model), values(twin)) == []


@pytest.mark.parametrize("name", ["adam", "l2init", "sam", "feature-norm"])
def test_the_parts_of_a_batch_add_up_to_it_with_one_graph_at_a_time(name: str) -> None:
    """Their gradients are summed in another order: 1e-6 of entries of order one, which Adam may enlarge."""
    whole, parts = started(name), started(name)
    inputs, targets = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    if name == "feature-norm":  # sees the features of the first part: let all be alike
        inputs, targets = inputs[:2].repeat(3, 1), targets[:2].repeat(3)
    alive: list[int] = []

    def losses() -> Iterator[Tensor]:
        for x, y in zip(inputs.split(2), targets.split(2), strict=True):
            alive.append(sum(p.grad is not None for p in parts.model.parameters()))
            yield cross_entropy(parts.model(x), y) / 3

    for run in (whole, parts):
        run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1)
    one = step(whole, (inputs, targets))
    other = parts.step(losses, inputs=inputs)
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(values(whole.model), values(parts.model), rtol=1e-5, atol=1e-6)
    assert alive[:3] == [0, 6, 6], "the first part was differentiated before the second was computed"


def test_gradients_are_clipped_all_together_before_the_method_sees_them() -> None:
    norms = []
    for clip in (None, 0.25):
        run = training("swr", started("adam").model, lr=0.0, clip_norm=clip)
        step(run, DATA)
        norms.append(torch.stack([p.grad.norm() for p in run.model.parameters()]).norm().item())
    assert norms[0] > 0.3
    assert norms[1] == pytest.approx(0.25, rel=1e-5)
    with pytest.raises(IsoplastError, match=r"clip_norm is 0: it must be positive"):
        training("adam", nn.Linear(2, 2), clip_norm=0)


def test_bfloat16_autocast_goes_inside_the_closure() -> None:
    run = started("redo+c-chain", **{"redo.every": 2})

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return cross_entropy(run.model(DATA[0]), DATA[1])

    assert all(run.step(loss, inputs=DATA[0]).isfinite() for _ in range(5))


def test_a_scheduler_takes_the_optimizer() -> None:
    run = started("adamo")
    scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 1, gamma=0.5)
    step(run, DATA)
    scheduler.step()
    assert run.optimizer.param_groups[0]["lr"] == 5e-3


def test_a_compiled_network_may_take_the_place_of_the_network() -> None:
    """A wrapper like `torch.compile`'s: what is saved has the names of the network itself."""

    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._orig_mod = module

        def forward(self, inputs: Tensor) -> Tensor:
            return self._orig_mod(inputs)

    ends = []
    for wrapped in (False, True):
        run = started("redo+l2init+hare-tortoise", **{"redo.every": 3, "hare-tortoise.every": 4})
        plain = run.model
        run.model = Wrapper(plain) if wrapped else plain
        for _ in range(6):
            step(run, DATA)
        with run.evaluated() as shown:
            assert shown is plain
        ends.append(run.state_dict())
    assert ends[0]["model"].keys() == ends[1]["model"].keys()
    assert different(ends[0]["model"], ends[1]["model"]) == []


class Several(nn.Module):
    """Takes positional or keyword inputs, and returns a named tuple."""

    class Found(NamedTuple):
        mean: Tensor
        spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.join = nn.Linear(3, 8), nn.Linear(2, 8), nn.Linear(16, 8)
        self.activations = nn.ModuleList(nn.ReLU() for _ in range(3))
        self.mean, self.spread = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, left: Tensor, right: Tensor) -> Found:
        both = [self.activations[0](self.left(left)), self.activations[1](self.right(right))]
        hidden = self.activations[2](self.join(torch.cat(both, -1)))
        return self.Found(self.mean(hidden), self.spread(hidden))


@pytest.mark.parametrize("kind", [dict, None], ids=["dict", "tuple"])
@pytest.mark.parametrize(
    "name", ["redo", "c-chain", "cbp+c-chain", "plasticity-injection", "l2er", "feature-norm", "head-reset"]
)
def test_a_network_may_take_several_inputs_and_return_several_outputs(name: str, kind: Any) -> None:
    torch.manual_seed(0)
    run = training(name, Several(), lr=1e-2, **busy(name))
    left, right = torch.randn(8, 3), torch.randn(8, 2)
    inputs = (left, right) if kind is None else kind(left=left, right=right)

    def loss() -> Tensor:
        found = run.model(left, right)
        return sum(tensor.square().mean() for tensor in found)

    losses = [run.step(loss, inputs=inputs) for _ in range(15)]
    run.new_task(inputs, loss)
    losses += [run.step(loss, inputs=inputs) for _ in range(15)]
    assert losses[14] < losses[0]
    assert torch.stack(losses).isfinite().all()
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    file.seek(0)
    again = training(name, Several(), lr=1e-2, **busy(name))
    again.load_state_dict(torch.load(file, weights_only=True))


# --- tasks ----------------------------------------------------------------------------------------------


class Told(Method):
    """Remembers what it is told of tasks."""

    name = "told"
    info = MethodInfo(title="Told", source="2026", controls="nothing", needs_task_boundaries=True)

    def on_task(self, task: TaskContext) -> None:
        self.state.setdefault("tasks", []).append([task.index, task.inputs, task.loss])


def test_tasks_are_numbered_whether_or_not_the_first_was_announced() -> None:
    for announced in (True, False):
        run = training(Told(), nn.Linear(6, 3))
        if announced:
            run.new_task("a", "b")  # type: ignore[arg-type]
            run.new_task()  # nothing was trained in between
        step(run, DATA)
        run.new_task(DATA[0])
        step(run, DATA)
        run.new_task()
        first = [[0, "a", "b"], [0, None, None]] if announced else []
        assert run.method.state["tasks"] == [*first, [1, DATA[0], None], [2, None, None]]
        assert run.task == 2


def test_dash_asks_for_the_loss_it_needs() -> None:
    run = started("dash")
    run.new_task()
    step(run, DATA)
    with pytest.raises(IsoplastError, match=r"method dash needs the gradient on the new task: give new_"):
        run.new_task(DATA[0])


# --- what is said about mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["redo", "c-chain", "layernorm+redo"])
def test_a_method_that_needs_inputs_says_so_in_the_first_step(name: str) -> None:
    run = started(name)
    with pytest.raises(IsoplastError, match=f"method {re.escape(name)} looks at the batch again: give"):
        run.step(lambda: cross_entropy(run.model(DATA[0]), DATA[1]))
    assert run.steps == 0


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "the closure of step() returns NoneType: return the loss"),
        (1.5, "the closure of step() returns float: return the loss"),
        (torch.ones(3, requires_grad=True), r"returns a tensor of shape (3,): return the loss"),
        ([], "the closure of step() yields no loss"),
        ([None], "the closure of step() returns NoneType"),
    ],
)
def test_a_closure_without_a_loss_is_refused_in_one_line(found: Any, reason: str) -> None:
    run = started("adam")
    with pytest.raises(IsoplastError) as error:
        run.step(lambda: found)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_loss_of_one_entry_is_a_loss() -> None:
    run = started("adam")
    assert run.step(lambda: run.model(DATA[0]).sum().reshape(1, 1)).shape == ()


def test_a_method_object_serves_one_training() -> None:
    method = methods.get("l2init+layernorm")
    training(method, started("adam").model)
    with pytest.raises(IsoplastError, match=r"method l2init\+layernorm is in use already: make another"):
        training(method, started("adam").model)
    with pytest.raises(IsoplastError, match="method l2init is in use already"):
        training(method.parts[0], started("adam").model)  # type: ignore[attr-defined]
    with pytest.raises(IsoplastError, match="method adam is an object with its settings: give eps to it"):
        training(methods.get("adam"), nn.Linear(2, 2), eps=1e-6)


def test_what_is_no_network_or_has_no_shape_yet_is_refused() -> None:
    with pytest.raises(IsoplastError, match=r"model is generator: give a torch.nn.Module"):
        training("adam", nn.Linear(2, 2).parameters())  # type: ignore[arg-type]
    lazy = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    with pytest.raises(IsoplastError, match=r"1\.weight is not initialised yet: run one batch"):
        training("l2init", lazy)
    lazy(torch.ones(1, 2))
    training("l2init", lazy).step(lambda: lazy(torch.ones(1, 2)).sum())
    with pytest.raises(IsoplastError, match=r"method adam with lr -1: Invalid learning rate"):
        training("adam", nn.Linear(2, 2), lr=-1)
    with pytest.raises(IsoplastError, match="lr is 'fast': give a number"):
        training("adam", nn.Linear(2, 2), lr="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [np.float64, np.float32, torch.tensor])
def test_a_learning_rate_from_a_sweep_is_a_plain_number_in_checkpoints(kind: Callable[[float], Any]) -> None:
    run = training("adamo+redo", started("adam").model, lr=kind(0.5))
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    file.seek(0)
    groups = torch.load(file, weights_only=True)["optimizer"]["param_groups"]
    assert {(type(group["lr"]), group["lr"]) for group in groups} == {(float, 0.5)}


def test_a_step_of_ones_own_that_never_calls_the_closure_is_refused() -> None:
    class Idle(Method):
        """Does nothing."""

        name = "idle"
        info = MethodInfo(title="Idle", source="2026", controls="nothing")

        def step(self, optimizer: torch.optim.Optimizer, closure: Callable[[], Tensor]) -> Tensor:
            return torch.zeros(())

    run = training(Idle(), nn.Linear(6, 3))
    with pytest.raises(IsoplastError, match="method idle did a step without calling its closure"):
        step(run, DATA)


def test_the_hooks_can_be_called_by_hand_in_the_documented_order() -> None:
    """For loops that cannot leave the backward pass to `step`: the same bits."""
    run = started("l2init+redo", **{"redo.every": 3})
    method = methods.get("l2init+redo", **{"redo.every": 3})
    model = method.prepare(started("adam").model)
    optimizer = method.optimizer(model, 1e-2)
    method.begin(model, optimizer)
    for number in range(1, 8):
        torch.manual_seed(number)
        step(run, DATA)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(model(DATA[0]), DATA[1])
            total = loss + method.penalty(model, DATA[0])
            total.backward()
            return total.detach()

        torch.manual_seed(number)
        loss = method.step(optimizer, closure)
        method.after_step(StepContext(model, optimizer, DATA[0], loss, number))
    assert different(values(run.model), values(model)) == []
