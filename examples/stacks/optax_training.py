"""AdamO for JAX: an optax transformation, with a schedule; compiled once.

python examples/stacks/optax_training.py          # pip install isoplast[jax]
"""

import jax
import jax.numpy as jnp
import optax

from isoplast.jax import adamo


def network(params, x):
    for name in ("Dense_0", "Dense_1"):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def loss_of(params, x):
    labels = x[:, :5].argmax(1)
    return optax.softmax_cross_entropy_with_integer_labels(network(params, x), labels).mean()


key = jax.random.key(0)
shapes = {"Dense_0": (32, 128), "Dense_1": (128, 128), "head": (128, 5)}
params = {
    name: {
        "kernel": jax.random.normal(jax.random.fold_in(key, i), shape) / jnp.sqrt(shape[0]),
        "bias": jnp.zeros(shape[1]),
    }
    for i, (name, shape) in enumerate(shapes.items())
}
tx = adamo(optax.warmup_cosine_decay_schedule(0.0, 3e-3, 20, 300), isometry=1.0)
state = tx.init(params)


@jax.jit
def step(params, state, x):
    loss, gradients = jax.value_and_grad(loss_of)(params, x)
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, loss


for number in range(300):
    params, state, loss = step(
        params, state, jax.random.normal(jax.random.fold_in(key, 10 + number), (128, 32))
    )
    if number % 100 == 99:
        print(f"step {number + 1}: loss {loss:.3f}")
values = jnp.linalg.svd(params["Dense_1"]["kernel"], compute_uv=False)
print(f"singular values of the middle layer: {values[-1]:.2f} to {values[0]:.2f}")
