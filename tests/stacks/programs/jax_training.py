"""JAX: AdamO for optax equals the torch optimizer, without compiling anew; behind others; sharded."""

from __future__ import annotations

import os
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import torch  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402
from torch import nn  # noqa: E402

from isoplast import AdamO  # noqa: E402
from isoplast.jax import adamo, decoupled_isometry  # noqa: E402

jax.config.update("jax_enable_x64", True)
SETTINGS = {"isometry": 0.3, "isometry_every": "auto"}


def drawn(seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        name: {"kernel": generator.normal(size=shape) * 0.3, "bias": generator.normal(size=shape[1]) * 0.3}
        for name, shape in (("Dense_0", (20, 32)), ("Dense_1", (32, 16)))
    }


def run(tx: Any, params: Any, steps: int) -> Any:
    """The weights after so many steps, which are compiled once."""
    compiled = jax.jit(tx.update)
    state = tx.init(params)
    for number in range(steps):
        updates, state = compiled(jax.tree.map(jnp.asarray, drawn(number + 1)), state, params)
        params = optax.apply_updates(params, updates)
    assert compiled._cache_size() == 1, "compiled again"
    return params


def equal(**_: Any) -> None:
    """100 steps of a schedule in both frameworks, alone and over two devices."""
    rate = optax.warmup_cosine_decay_schedule(1e-3, 1e-2, 20, 100)
    parameters = {
        (layer, name): nn.Parameter(torch.tensor(value).T.contiguous())
        for layer, entry in drawn(0).items()
        for name, value in sorted(entry.items())
    }
    optimizer = AdamO(parameters.values(), **SETTINGS)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = float(rate(step))
        for (layer, name), p in parameters.items():
            p.grad = torch.tensor(drawn(step + 1)[layer][name]).T.contiguous()
        optimizer.step()
    mesh = Mesh(jax.devices(), "rows")
    over_two = jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, PartitionSpec("rows"))), drawn(0))
    for start in (jax.tree.map(jnp.asarray, drawn(0)), over_two):
        found = run(adamo(rate, **SETTINGS), start, 100)
        for (layer, name), p in parameters.items():
            assert np.abs(np.asarray(found[layer][name]).T - p.detach().numpy()).max() < 1e-6


def behind(**_: Any) -> None:
    """decoupled_isometry chained after another optimizer makes its kernels isometric."""
    tx = optax.chain(optax.sgd(1e-2), decoupled_isometry(1e-2, isometry=3.0))
    found = run(tx, jax.tree.map(jnp.asarray, drawn(0)), 100)
    values = np.linalg.svd(np.asarray(found["Dense_0"]["kernel"]), compute_uv=False)
    assert np.abs(values - 1).max() < 0.2, values
