"""What is kept isometric in trees of flax, equinox and plain dicts, and how it is seen as matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

jax = pytest.importorskip("jax", reason="the extra 'jax' is not installed")
optax = pytest.importorskip("optax", reason="the extra 'jax' is not installed")

import jax.numpy as jnp  # noqa: E402

from isoplast import param_groups  # noqa: E402
from isoplast._core.errors import IsoplastError  # noqa: E402
from isoplast.jax import Layout, adamo, roles  # noqa: E402


def kept(found: Any) -> dict[str, tuple[int, int, int]]:
    """Blocks, rows and columns of every array under isometry."""
    return {r.name: (r.layout.blocks, *r.layout.sides(r.shape)) for r in found if r.layout is not None}


def reasons(found: Any) -> dict[str, str]:
    return {r.name: r.reason for r in found if r.layout is None}


def linen() -> Any:
    """A network of flax.linen with one layer of each kind."""
    flax = pytest.importorskip("flax.linen", reason="flax is not installed")

    class Network(flax.Module):
        @flax.compact
        def __call__(self, images: Any, words: Any) -> Any:
            x = flax.Conv(16, (3, 3))(images)
            x = flax.Conv(16, (3, 3), feature_group_count=16)(x)
            x = flax.GroupNorm(4)(x)
            x = flax.ConvTranspose(8, (2, 2))(x).reshape(images.shape[0], -1)
            y = flax.Embed(50, 12)(words)
            y = y + self.param("pos_embedding", flax.initializers.normal(), (words.shape[1], 12))
            y = flax.MultiHeadDotProductAttention(num_heads=3)(y)
            y = flax.LayerNorm()(y)
            y = flax.Dense(36, name="qkv")(y).reshape(images.shape[0], -1)
            return flax.Dense(5)(jnp.concatenate([x, y], axis=1))

    return Network().init(jax.random.PRNGKey(0), jnp.ones((2, 8, 8, 3)), jnp.ones((2, 7), jnp.int32))[
        "params"
    ]


def test_flax_linen() -> None:
    found = roles(linen())
    assert kept(found) == {
        "Conv_0/kernel": (1, 16, 27),
        "ConvTranspose_0/kernel": (1, 8, 64),
        "Dense_0/kernel": (1, 5, 8 * 64 + 7 * 36),
        "MultiHeadDotProductAttention_0/key/kernel": (1, 12, 12),
        "MultiHeadDotProductAttention_0/out/kernel": (1, 12, 12),
        "MultiHeadDotProductAttention_0/query/kernel": (1, 12, 12),
        "MultiHeadDotProductAttention_0/value/kernel": (1, 12, 12),
        "qkv/kernel": (3, 12, 12),
    }
    left = reasons(found)
    assert "depthwise" in left["Conv_1/kernel"]
    assert "Layout((0, 1, 2), (3,))" in left["Conv_1/kernel"]  # the way out, for a first layer of grey images
    assert "table of vectors" in left["Embed_0/embedding"]
    assert "table of vectors" in left["pos_embedding"]
    assert "LayerNorm_0" in left["LayerNorm_0/scale"]
    assert len(found) == len(jax.tree.leaves(linen()))


def test_flax_nnx() -> None:
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")

    class Network(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.embed = nnx.Embed(20, 6, rngs=rngs)
            self.norm = nnx.LayerNorm(6, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)
            self.out = nnx.Linear(6, 4, rngs=rngs)

    network = Network(nnx.Rngs(0))
    found = roles(nnx.state(network, nnx.Param))
    assert kept(found) == {
        "attention/key/kernel": (1, 6, 6),
        "attention/out/kernel": (1, 6, 6),
        "attention/query/kernel": (1, 6, 6),
        "attention/value/kernel": (1, 6, 6),
        "conv/kernel": (1, 8, 27),
        "out/kernel": (1, 4, 6),
    }
    optimizer = nnx.Optimizer(network, adamo(1e-2, isometry=1.0, isometry_every=1), wrt=nnx.Param)
    before = network.out.kernel[...]
    gradients = jax.tree.map(jnp.zeros_like, nnx.state(network, nnx.Param))
    optimizer.update(network, gradients)
    values = [jnp.linalg.svd(k, compute_uv=False) for k in (before, network.out.kernel[...])]
    assert abs(values[1] - 1).max() < abs(values[0] - 1).max()


def equinox_network() -> Any:
    eqx = pytest.importorskip("equinox", reason="equinox is not installed")
    keys = iter(jax.random.split(jax.random.PRNGKey(0), 10))

    class Network(eqx.Module):
        conv: Any
        grouped: Any
        depthwise: Any
        embedding: Any
        cell: Any
        attention: Any
        norm: Any
        qkv: Any
        layers: list[Any]

        def __init__(self) -> None:
            self.conv = eqx.nn.Conv2d(3, 16, 3, key=next(keys))
            self.grouped = eqx.nn.Conv2d(16, 8, 3, groups=2, key=next(keys))
            self.depthwise = eqx.nn.Conv2d(8, 8, 3, groups=8, key=next(keys))
            self.embedding = eqx.nn.Embedding(50, 12, key=next(keys))
            self.cell = eqx.nn.GRUCell(12, 10, key=next(keys))
            self.attention = eqx.nn.MultiheadAttention(2, 12, key=next(keys))
            self.norm = eqx.nn.LayerNorm((4, 4))
            self.qkv = eqx.nn.Linear(12, 36, key=next(keys))
            self.layers = [eqx.nn.Linear(12, 6, key=next(keys)), jax.nn.relu]

    return eqx.filter(Network(), eqx.is_inexact_array)


def test_equinox() -> None:
    params = equinox_network()
    found = roles(params)
    assert kept(found) == {
        "conv/weight": (1, 16, 27),
        "grouped/weight": (2, 4, 72),
        "cell/weight_ih": (3, 10, 12),
        "cell/weight_hh": (3, 10, 10),
        "attention/query_proj/weight": (1, 12, 12),
        "attention/key_proj/weight": (1, 12, 12),
        "attention/value_proj/weight": (1, 12, 12),
        "attention/output_proj/weight": (1, 12, 12),
        "qkv/weight": (3, 12, 12),
        "layers/0/weight": (1, 6, 12),
    }
    left = reasons(found)
    assert "one filter per channel" in left["depthwise/weight"]
    assert "LayerNorm" in left["norm/weight"]
    assert [r.shape for r in found] == [leaf.shape for leaf in jax.tree.leaves(params)]


def test_the_same_network_in_torch_keeps_the_same_matrices() -> None:
    """Sides as :func:`isoplast.param_groups` sees them, whatever the order of the axes."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Flatten(), nn.Linear(64, 32), nn.LayerNorm(32), nn.Linear(32, 10)
    )
    decisions = [d for d in param_groups(model).decisions if d.isometric]
    torches = sorted((d.parameter.shape[0], d.parameter[0].numel()) for d in decisions)
    params = {
        "Conv_0": {"kernel": jnp.ones((3, 3, 3, 16)), "bias": jnp.ones(16)},
        "Dense_0": {"kernel": jnp.ones((64, 32)), "bias": jnp.ones(32)},
        "LayerNorm_0": {"scale": jnp.ones(32), "bias": jnp.ones(32)},
        "Dense_1": {"kernel": jnp.ones((32, 10)), "bias": jnp.ones(10)},
    }
    assert sorted(sides for _, *sides in kept(roles(params)).values()) == [list(sides) for sides in torches]


def test_haiku_and_unknown_arrays() -> None:
    params = {
        "linear": {"w": jnp.ones((8, 4)), "b": jnp.ones(4)},
        "conv2_d": {"w": jnp.ones((3, 3, 8, 4))},
        "experts": {"w": jnp.ones((5, 8, 4))},
        "mixing": jnp.ones((8, 8)),
        "counts": jnp.ones((8, 8), jnp.int32),
        "row": jnp.ones((1, 9)),
        "stack": jnp.ones((2, 3, 4)),
    }
    found = roles(params)
    assert set(kept(found)) == {"linear/w", "conv2_d/w", "mixing"}
    left = reasons(found)
    assert "say layouts={'experts/w'" in left["experts/w"]
    assert "unknown use" in left["stack"]
    assert "int32" in left["counts"]
    assert left["row"] == "one side of the matrix is 1"
    told = roles(params, layouts={"experts/*": Layout((1,), (2,))}, exclude=["mixing"])
    assert kept(told)["experts/w"] == (1, 4, 8)
    assert "mixing" not in kept(told)


def test_patterns_and_layouts_that_do_not_fit_are_refused() -> None:
    params: dict[str, Any] = {"linear": {"w": jnp.ones((8, 4))}}
    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: roles(params, exclude=["encoder*"]), "no parameter is named like 'encoder\\*'.*linear/w"),
        (lambda: roles(params, layouts={"dense*": Layout((0,), (1,))}), "no parameter is named like 'dense"),
        (lambda: roles(params, layouts={"linear/w": Layout((0,), (2,))}), "does not fit its shape"),
        (lambda: roles({}, exclude=["x"]), "no parameter is named like 'x'"),
    ]
    for action, words in refused:
        with pytest.raises(IsoplastError, match=words):
            action()


def test_the_table_shows_every_array() -> None:
    lines = str(roles(linen())).splitlines()
    assert len(lines) == 1 + len(jax.tree.leaves(linen()))
    assert lines[0].split() == ["parameter", "shape", "role", "isometry", "reason"]


def test_experts_are_kept_isometric_each() -> None:
    layouts = {"experts": Layout((1,), (2,))}
    params = {"experts": jax.random.normal(jax.random.PRNGKey(0), (4, 6, 5))}
    tx = adamo(1e-2, isometry=5.0, isometry_every=1, roles=lambda tree: roles(tree, layouts=layouts))
    state = tx.init(params)
    for _ in range(200):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        params = optax.apply_updates(params, updates)
    for expert in params["experts"]:
        assert torch.linalg.svdvals(torch.tensor(expert.tolist())).sub(1).abs().max() < 0.01
