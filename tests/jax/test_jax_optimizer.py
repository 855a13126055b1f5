"""adamo and decoupled_isometry are the torch optimizers, whatever JAX does around them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

jax = pytest.importorskip("jax", reason="the extra 'jax' is not installed")
optax = pytest.importorskip("optax", reason="the extra 'jax' is not installed")

import jax.numpy as jnp  # noqa: E402

from isoplast import AdamO, attach, isometry  # noqa: E402
from isoplast._core.errors import IsoplastError  # noqa: E402
from isoplast.jax import Layout, adamo, decoupled_isometry, flow_step, isometry_step, roles  # noqa: E402

SHAPES = {"conv": (8, 3, 3, 3), "tall": (20, 7), "wide": (5, 20), "bias": (20,)}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """float64, so that 100 steps of two frameworks differ by rounding of 1e-16 and not of 1e-7."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def arrays(seed: int) -> dict[str, np.ndarray]:
    """Values in torch's shapes."""
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape) * 0.3 for name, shape in SHAPES.items()}


def to_flax(values: dict[str, np.ndarray]) -> dict[str, Any]:
    """The same in flax's shapes and names: kernels (in, out) and HWIO."""
    kernels = {
        "conv": values["conv"].transpose(2, 3, 1, 0),
        "tall": values["tall"].T,
        "wide": values["wide"].T,
    }
    tree = {
        f"{'Conv' if name == 'conv' else 'Dense'}_{name}": {"kernel": jnp.asarray(k)}
        for name, k in kernels.items()
    }
    tree["Dense_tall"]["bias"] = jnp.asarray(values["bias"])
    return tree


def from_flax(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        "conv": np.asarray(tree["Conv_conv"]["kernel"]).transpose(3, 2, 0, 1),
        "tall": np.asarray(tree["Dense_tall"]["kernel"]).T,
        "wide": np.asarray(tree["Dense_wide"]["kernel"]).T,
        "bias": np.asarray(tree["Dense_tall"]["bias"]),
    }


def schedule(step: Any) -> Any:
    """Warm-up and decay, as a function that both frameworks can call."""
    return 1e-2 * (step + 1) / 20 if isinstance(step, int) and step < 20 else _decay(step)


def _decay(step: Any) -> Any:
    if isinstance(step, int):
        return 1e-2 * 0.99 ** (step - 20)
    return jnp.where(step < 20, 1e-2 * (step + 1) / 20, 1e-2 * 0.99 ** (step - 20))


def torch_run(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], steps: int, scheduled: bool
) -> Any:
    parameters = {name: nn.Parameter(torch.tensor(value)) for name, value in arrays(0).items()}
    # In the order of the other tree's leaves, as turns are handed out in order.
    optimizer = make([parameters[name] for name in ("conv", "bias", "tall", "wide")])
    for step in range(steps):
        if scheduled:
            optimizer.param_groups[0]["lr"] = schedule(step)
        for name, value in arrays(step + 1).items():
            parameters[name].grad = torch.tensor(value)
        optimizer.step()
    return {name: p.detach().numpy() for name, p in parameters.items()}


def jax_run(tx: Any, steps: int, jit: bool = True) -> tuple[Any, int]:
    """The weights after so many steps, and how often the step was traced."""
    traces = 0

    def step(params: Any, state: Any, gradients: Any) -> Any:
        nonlocal traces
        traces += 1
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step) if jit else step
    params = to_flax(arrays(0))
    state = tx.init(params)
    for number in range(steps):
        params, state = step(params, state, to_flax(arrays(number + 1)))
    return from_flax(params), traces


def apart(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> float:
    return max(float(abs(first[name] - second[name]).max()) for name in SHAPES)


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("every", [1, 7, "auto"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_100_steps_are_those_of_torch(every: Any, scheduled: bool, decay: float) -> None:
    settings = {"isometry": 0.3, "weight_decay": decay, "isometry_every": every}
    expected = torch_run(lambda ps: AdamO(ps, lr=1e-2, **settings), 100, scheduled)
    found, traces = jax_run(adamo(schedule if scheduled else 1e-2, **settings), 100)
    assert apart(found, expected) < 1e-6
    assert traces == 1
    without = torch_run(lambda ps: AdamO(ps, lr=1e-2, **{**settings, "isometry": 0.0}), 100, scheduled)
    assert apart(without, expected) > 0.1, "the isometry step did nothing that could be compared"


@pytest.mark.parametrize("every", [1, 7])
def test_behind_another_optimizer_it_is_attach(every: Any) -> None:
    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        sgd = torch.optim.SGD(parameters, lr=1e-2, momentum=0.9)
        attach(sgd, isometry=0.3, every=every)
        return sgd

    tx = optax.chain(optax.sgd(1e-2, momentum=0.9), decoupled_isometry(1e-2, 0.3, every=every))
    assert apart(jax_run(tx, 100)[0], torch_run(make, 100, False)) < 1e-6


def test_in_float32_it_stays_within_float32() -> None:
    expected = torch_run(lambda ps: AdamO(ps, lr=1e-2, isometry=0.3), 100, False)
    jax.config.update("jax_enable_x64", False)
    found, traces = jax_run(adamo(1e-2, isometry=0.3), 100)
    assert found["tall"].dtype == np.float32
    assert traces == 1
    assert apart(found, expected) < 1e-5  # 100 roundings of 3e-8 each, and Adam's own


def test_strength_zero_is_adamw_to_the_bit() -> None:
    found, _ = jax_run(adamo(1e-2, isometry=0.0, weight_decay=0.1), 20)
    expected, _ = jax_run(optax.adamw(1e-2, weight_decay=0.1), 20)
    assert apart(found, expected) == 0.0


def test_time_constant() -> None:
    found, _ = jax_run(adamo(1e-2, isometry_time=100.0, isometry_every=1), 10)
    expected, _ = jax_run(adamo(1e-2, isometry=1 / (8 * 1e-2 * 100), isometry_every=1), 10)
    assert apart(found, expected) < 1e-12


@pytest.mark.parametrize("every", [1, 5, "auto"])
def test_under_vmap_every_seed_is_its_own_run(every: Any) -> None:
    tx = adamo(1e-2, isometry=0.3, isometry_every=every)

    def train(params: Any, gradients: Any) -> Any:
        def step(carry: Any, gradient: Any) -> Any:
            params, state = carry
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), gradients)[0][0]

    seeds = [0, 1, 2]
    params = [to_flax(arrays(seed)) for seed in seeds]
    gradients = [
        jax.tree.map(lambda *g: jnp.stack(g), *[to_flax(arrays(seed + 10 * n)) for n in range(1, 21)])
        for seed in seeds
    ]
    stacked = jax.vmap(train)(
        *(jax.tree.map(lambda *x: jnp.stack(x), *trees) for trees in (params, gradients))
    )
    for index in range(3):
        one = train(params[index], gradients[index])
        for found, expected in zip(jax.tree.leaves(stacked), jax.tree.leaves(one), strict=True):
            assert abs(found[index] - expected).max() < 1e-12


@pytest.mark.parametrize("every", [1, 7])
def test_inject_hyperparams(every: int) -> None:
    make = optax.inject_hyperparams(adamo, static_args=("isometry_every",))
    tx = make(learning_rate=schedule, isometry=0.3, isometry_every=every)
    found, traces = jax_run(tx, 50)
    expected, _ = jax_run(adamo(schedule, isometry=0.3, isometry_every=every), 50)
    assert apart(found, expected) < 1e-12
    assert traces == 1
    assert float(tx.init(to_flax(arrays(0))).hyperparams["isometry"]) == 0.3


def test_a_strength_can_change_without_a_recompilation() -> None:
    tx = optax.inject_hyperparams(adamo, static_args=("isometry_every",))(
        1e-2, isometry=0.3, isometry_every=1
    )
    traces = 0

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        nonlocal traces
        traces += 1
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        return optax.apply_updates(params, updates), state

    params = to_flax(arrays(0))
    state = tx.init(params)
    for strength in (0.3, 0.1, 0.0):
        before = params
        state.hyperparams["isometry"] = jnp.asarray(strength)
        params, state = step(params, state)
        moved = max(
            float(abs(p - q).max()) for p, q in zip(*map(jax.tree.leaves, (params, before)), strict=True)
        )
        assert (moved > 0) == (strength > 0)
    assert traces == 1


def test_masks_and_partitions() -> None:
    """A mask takes arrays out of sight; the others move as without it, and nothing is left unsaid."""
    everything = {"Conv_conv": True, "Dense_tall": True, "Dense_wide": False}
    tx = optax.chain(optax.sgd(0.0), optax.masked(decoupled_isometry(1e-2, 0.3, every=1), everything))
    found, _ = jax_run(tx, 10)
    whole, _ = jax_run(optax.chain(optax.sgd(0.0), decoupled_isometry(1e-2, 0.3, every=1)), 10)
    start = arrays(0)
    assert abs(found["wide"] - start["wide"]).max() == 0
    assert abs(whole["wide"] - start["wide"]).max() > 0.01
    assert max(abs(found[name] - whole[name]).max() for name in ("conv", "tall")) < 1e-15
    labels = {"Conv_conv": "sgd", "Dense_tall": "adamo", "Dense_wide": "adamo"}
    parts = {"sgd": optax.sgd(1e-2), "adamo": adamo(1e-2, isometry=0.3)}
    split, traces = jax_run(optax.multi_transform(parts, labels), 10)
    assert traces == 1
    alone, _ = jax_run(optax.sgd(1e-2), 10)
    assert abs(split["conv"] - alone["conv"]).max() < 1e-15
    assert abs(split["tall"] - alone["tall"]).max() > 0.01


def test_a_mask_that_hides_every_matrix_is_refused() -> None:
    only_bias = {"Conv_conv": False, "Dense_tall": {"kernel": False, "bias": True}, "Dense_wide": False}
    tx = optax.masked(adamo(1e-2), only_bias)
    with pytest.raises(IsoplastError, match="no matrix to keep isometric"):
        tx.init(to_flax(arrays(0)))
    with pytest.raises(IsoplastError, match="flattening"):
        optax.flatten(adamo(1e-2)).init(to_flax(arrays(0)))


def test_roles_of_another_tree_are_refused() -> None:
    chosen = roles(to_flax(arrays(0)))
    with pytest.raises(IsoplastError, match="roles are of 4 arrays"):
        adamo(1e-2, roles=chosen).init({"kernel": jnp.ones((3, 3))})
    excluding = functools.partial(roles, exclude=["Dense_*"])
    found, _ = jax_run(
        optax.chain(optax.sgd(0.0), decoupled_isometry(1e-2, 0.3, every=1, roles=excluding)), 5
    )
    assert abs(found["wide"] - arrays(0)["wide"]).max() == 0
    assert abs(found["conv"] - arrays(0)["conv"]).max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"learning_rate": -1.0}, "learning rate"),
        ({"learning_rate": float("nan")}, "learning rate"),
        ({"learning_rate": 1e-2, "isometry": -1.0}, "isometry value"),
        ({"learning_rate": 1e-2, "isometry": float("inf")}, "isometry value"),
        ({"learning_rate": 1e-2, "isometry_every": 0}, "every"),
        ({"learning_rate": 1e-2, "isometry_every": 2.0}, "static_args"),
        ({"learning_rate": 1e-2, "isometry_every": "always"}, "every"),
        ({"learning_rate": 1e-2, "isometry": 0.1, "isometry_time": 10.0}, "exclude each other"),
        ({"learning_rate": 1e-2, "isometry_time": 0.0}, "isometry_time"),
        ({"learning_rate": schedule, "isometry_time": 10.0}, "schedule"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(IsoplastError, match=word) as caught:
        adamo(**settings)
    assert "\n" not in str(caught.value)


def test_update_needs_the_parameters() -> None:
    params = to_flax(arrays(0))
    for tx in (adamo(1e-2), decoupled_isometry(1e-2)):
        with pytest.raises(ValueError, match="parameters"):
            tx.update(params, tx.init(params))


@pytest.mark.parametrize("shape", [(6, 6), (20, 7), (7, 20), (3, 9, 5)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("strength", [1e-7, 1e-3, 0.2, 0.3, 1e6])
def test_the_steps_and_their_guards_are_those_of_torch(
    shape: tuple[int, ...], scale: float, strength: float
) -> None:
    matrix = np.random.default_rng(0).normal(size=shape) * scale
    for ours, theirs in ((isometry_step, isometry.isometry_step), (flow_step, isometry.flow_step)):
        expected = theirs(torch.tensor(matrix), strength).numpy()
        assert np.allclose(ours(jnp.asarray(matrix), strength), expected, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("step", [isometry_step, flow_step])
def test_bfloat16_weights_have_their_gram_in_float32(step: Any) -> None:
    """The result is that of float32 rounded once: a Gram in bfloat16 would be off by 0.4 % of each entry."""
    values = jnp.asarray(np.random.default_rng(0).normal(size=(64, 32)) * 0.2, jnp.bfloat16)
    found = step(values, 0.05)
    assert found.dtype == jnp.bfloat16
    assert (found == step(values.astype(jnp.float32), 0.05).astype(jnp.bfloat16)).all()


def test_layout_views() -> None:
    """Batch axes anywhere, blocks of outputs, and back to the same places."""
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 6)))
    layout = Layout(inputs=(0,), outputs=(2,), blocks=2)
    seen: list[Any] = []

    def keep(matrix: Any) -> Any:
        seen.append(matrix)
        return matrix

    assert (layout.apply(keep, kernel) == kernel).all()
    assert seen[0].shape == (4, 2, 3, 5)
    assert (seen[0][1, 1, 2] == kernel[:, 1, 5]).all()
    for wrong in (Layout((0,), (0,)), Layout((0,), (3,)), Layout((), (1,)), Layout((0,), (1,), 3)):
        with pytest.raises(IsoplastError, match="kernel"):
            wrong.check("kernel", (5, 4, 6))
