"""Run by test_jax_sharding in a process of its own, as devices are counted once: sharded equals whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from isoplast.jax import adamo

jax.config.update("jax_enable_x64", True)
assert jax.device_count() == 4, jax.devices()
MESH = Mesh(jax.devices(), ("devices",))

for every in (1, 3):
    tx = adamo(1e-2, isometry=0.3, isometry_every=every)
    traces = 0

    @jax.jit
    def step(params, state):
        global traces
        traces += 1
        gradients = jax.grad(lambda p: sum(jnp.square(jnp.sin(x)).sum() for x in jax.tree.leaves(p)))(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

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
    results = []
    for params in (whole, sharded):
        traces, state = 0, tx.init(params)
        for _ in range(20):
            params, state = step(params, state)
        assert traces <= 2, traces
        results.append(params)
    for one, many in zip(*map(jax.tree.leaves, results), strict=True):
        assert abs(one - many).max() < 1e-12, abs(one - many).max()
        assert len(many.sharding.device_set) == 4
        assert many.addressable_shards[0].data.size == many.size // 4
