"""Run by test_jax_sharding in a process of its own, as devices are counted once: sharded equals whole."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from isoplast.jax import adamo

jax.config.update("jax_enable_x64", True)
assert jax.device_count() == 4, jax.devices()
MESH = Mesh(jax.devices(), ("devices",))


def loss(params: Any) -> jax.Array:
    """Moves every array."""
    return sum((jnp.square(jnp.sin(x)).sum() for x in jax.tree.leaves(params)), jnp.zeros(()))


def trained(params: Any, tx: Any) -> tuple[Any, int]:
    """The parameters after 20 steps, and how often the step was traced."""
    traces = 0

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        nonlocal traces
        traces += 1
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(20):
        params, state = step(params, state)
    return params, traces


def main() -> None:
    """Compares one device with four."""
    key = jax.random.PRNGKey(0)
    whole = {
        "tall": {"kernel": jax.random.normal(key, (32, 8))},
        "conv": {"kernel": jax.random.normal(key, (3, 3, 4, 16))},
    }
    specs = {
        "tall": {"kernel": PartitionSpec("devices", None)},
        "conv": {"kernel": PartitionSpec(None, None, None, "devices")},
    }
    sharded = jax.tree.map(lambda x, s: jax.device_put(x, NamedSharding(MESH, s)), whole, specs)
    for every in (1, 3):
        tx = adamo(1e-2, isometry=0.3, isometry_every=every)
        (one_device, traces), (four_devices, sharded_traces) = trained(whole, tx), trained(sharded, tx)
        # The second trace is optax's own: after the first step its scalars are on all devices.
        assert (traces, sharded_traces) == (1, trained(sharded, optax.adamw(1e-2))[1])
        for one, many in zip(*map(jax.tree.leaves, (one_device, four_devices)), strict=True):
            assert abs(one - many).max() < 1e-12, abs(one - many).max()
            assert len(many.sharding.device_set) == 4
            assert many.addressable_shards[0].data.size == many.size // 4


if __name__ == "__main__":
    main()
