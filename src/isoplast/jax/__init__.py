"""AdamO for JAX: optax transformations, and what to keep isometric in a tree of parameters."""

try:
    import optax as _optax  # noqa: F401  (brings jax)
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        f"isoplast.jax needs {_error.name}: pip install 'isoplast[jax]'", name=_error.name
    ) from None

from isoplast.jax._layout import Layout
from isoplast.jax._optimizer import IsometryState, adamo, decoupled_isometry
from isoplast.jax._roles import Role, Roles, roles
from isoplast.jax._steps import flow_step, isometry_step

__all__ = [
    "IsometryState",
    "Layout",
    "Role",
    "Roles",
    "adamo",
    "decoupled_isometry",
    "flow_step",
    "isometry_step",
    "roles",
]
