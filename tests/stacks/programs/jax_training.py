"""JAX: AdamO for optax equals the torch optimizer, without compiling anew; behind others; sharded."""

from __future__ import annotations

import os
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from torch import nn

from isoplast import AdamO
from isoplast.jax import adamo, decoupled_isometry

jax.config.update("jax_enable_x64", True)
SETTINGS = {"isometry": 0.3, "isometry_every": "auto"}


def drawn(seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        name: {"kernel": generator.normal(size=shape) * 0.3, "bias": generator.normal(size=shape[1]) * 0.3}
        for name, shape in (("Dense_0", (20, 32)), ("Dense_1", (32, 16)))
    }


def transposed(value: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(value.T))


def run(tx: Any, params: Any, steps: int, compilations: int = 1) -> Any:
    """The weights after so many steps, which are compiled no more often."""
    compiled = jax.jit(tx.update)
    state = tx.init(params)
    for number in range(steps):
        updates, state = compiled(jax.tree.map(jnp.asarray, drawn(number + 1)), state, params)
        # One step at a time: two devices that are one processor would wait for each other's threads.
        params = jax.block_until_ready(optax.apply_updates(params, updates))
    assert compiled._cache_size() == compilations, compiled._cache_size()
    return params


def equal(**_: Any) -> None:
    """100 steps of a schedule in both frameworks, alone and over two devices."""
    rate = optax.warmup_cosine_decay_schedule(1e-3, 1e-2, 20, 100)
    parameters = {
        (layer, name): nn.Parameter(transposed(value))
        for layer, entry in drawn(0).items()
        for name, value in sorted(entry.items())
    }
    optimizer = AdamO(parameters.values(), **SETTINGS)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = float(rate(step))
        for (layer, name), p in parameters.items():
            p.grad = transposed(drawn(step + 1)[layer][name])
        optimizer.step()
    mesh = Mesh(jax.devices(), "rows")
    over_two = jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, PartitionSpec("rows"))), drawn(0))
    # Over two devices the second step is compiled for the places that the first one gave its results.
    for start, compilations in ((jax.tree.map(jnp.asarray, drawn(0)), 1), (over_two, 2)):
        found = run(adamo(rate, **SETTINGS), start, 100, compilations)
        for (layer, name), p in parameters.items():
            assert np.abs(np.asarray(found[layer][name]).T - p.detach().numpy()).max() < 1e-6


def behind(**_: Any) -> None:
    """decoupled_isometry chained after another optimizer makes its kernels isometric."""
    tx = optax.chain(optax.sgd(1e-2), decoupled_isometry(1e-2, isometry=3.0))
    found = run(tx, jax.tree.map(jnp.asarray, drawn(0)), 100)
    values = np.linalg.svd(np.asarray(found["Dense_0"]["kernel"]), compute_uv=False)
    assert np.abs(values - 1).max() < 0.2, values
