"""The hidden layers whose weight a method takes over."""

from __future__ import annotations

from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Method
from isoplast.model import decide


def hidden_layers(
    method: Method, model: nn.Module, kinds: tuple[type[nn.Module], ...]
) -> dict[str, nn.Module]:
    """The layers that hold a hidden weight matrix, by name; embeddings and the head are none.

    Args:
        method: who asks, for the error message.
        model: the network.
        kinds: the types of layers that it can take, exactly: a subclass may use its weight in another way.

    Raises:
        IsoplastError: if there is no such layer, and for a hidden weight matrix in anything else: leaving it
            out silently would be worse.
    """
    found = {}
    for decision in decide(model):
        if not decision.isometric or decision.role != "matrix":
            continue
        name, _, leaf = decision.name.rpartition(".")
        layer = model.get_submodule(name)
        if type(layer) not in kinds or leaf != "weight" or decision.split != 1:
            wanted = ", ".join(kind.__name__ for kind in kinds)
            raise IsoplastError(
                f"method {method.name} takes layers of one matrix ({wanted}); {decision.name} is not: "
                f"{decision.reason}. Write it as such layers, or choose adamo, which takes every matrix"
            )
        found[name] = layer
    if not found:
        raise IsoplastError(f"method {method.name} found no hidden layer in {type(model).__name__} to act on")
    return found
