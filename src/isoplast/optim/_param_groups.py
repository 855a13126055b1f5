"""Parameter groups of a model: which parameters are kept isometric, decided per module, with reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.layer_kinds import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from isoplast._core.text import text_table
from isoplast.isometry import Split
from isoplast.model import Decision, decide
from isoplast.optim._groups import refuse_adapters, refuse_flattened
from isoplast.optim._numbers import number, plain


class ParamGroups(list[dict[str, Any]]):
    """Parameter groups for any torch optimizer; printing them shows every decision with its reason.

    Attributes:
        decisions: one :class:`Decision` per parameter, in the model's order.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], decisions: Iterable[Decision]) -> None:
        super().__init__(groups)
        self.decisions = tuple(decisions)

    def require_isometric(self) -> None:
        """Refuses a model of which nothing is kept isometric.

        Raises:
            ValueError: naming some of its parameters and the reasons.
        """
        refuse_flattened(d.parameter for d in self.decisions)
        kept = (d for d in self.decisions if d.isometric and d.strength != 0)
        refuse_adapters(d.name for d in kept if d.parameter.requires_grad)
        if not any(d.isometric for d in self.decisions):
            reasons = "; ".join(f"{d.name}: {d.reason}" for d in self.decisions[:3]) or "it has no parameters"
            raise IsoplastError(
                f"isometry was asked for a model that holds no matrix to keep isometric ({reasons}): set "
                "isometry=0 for plain Adam, or see print(param_groups(model))"
            )

    def __str__(self) -> str:
        rows = []
        for d in self.decisions:
            kept = "no" if not d.isometric else "yes" if d.strength is None else f"{d.strength:g}"
            rows.append((d.name, "x".join(map(str, d.parameter.shape)) or "scalar", d.role, kept, d.reason))
        return text_table(("parameter", "shape", "role", "isometry", "reason"), rows, right=False)


def param_groups(
    model: nn.Module,
    isometry: float | None = None,
    *,
    isometry_time: float | None = None,
    head: float | None = None,
    exclude: Iterable[str] = (),
    split: Mapping[str, Split] | None = None,
    batch_dims: Mapping[str, int] | None = None,
    per_head: bool = False,
    convolution: Literal["kernel", "operator"] = "kernel",
) -> ParamGroups:
    """Sorts a model's parameters into those that are kept isometric and those that are not.

    Linear and convolution weights, the gates of recurrent layers and stacks of experts are;
    embeddings, normalisations, biases, depthwise kernels, parametrised and tied weights are not, nor
    are parameters marked ``_no_weight_decay`` and those of unknown modules that are not named like
    a map (``weight``, ``W_q``, ``up_proj``, ...). Fused projections (``nn.MultiheadAttention``, and
    linear layers named like qkv, cut as the heads of their module or the output projection beside
    them say) and grouped convolutions are split into their matrices; where nothing says how, they
    stay one, with the reason in the table. ``print`` the result to see every decision.

    Args:
        model: any module whose parameters exist (run one batch first if it has lazy layers).
        isometry: the strength for all matrices, >= 0; by default the optimizer's own.
        isometry_time: their time constant in steps instead, > 0.
        head: the strength for the output layer alone, >= 0 (0 leaves it free); by default it is
            treated like the others. That is the module ``head`` (or ``classifier``, ``fc``, ...), else
            the last linear layer or convolution; of an actor-critic all of its output layers.
        exclude: shell patterns of parameter names that are left alone, such as "encoder.*".
        split: row blocks by name pattern, such as {"*.kv.weight": 2, "*.qkv.weight": (512, 128, 128)};
            negative numbers count columns of a weight stored as (in, out). A parameter named here is
            a matrix, whatever its name.
        batch_dims: leading dimensions that count matrices, by name pattern, such as {"*.w1": 1}. Known are
            3-d parameters with "expert" in their names.
        per_head: whether the q, k and v projections of attention are one matrix per head, (d/h, d),
            each with orthonormal rows, instead of one (d, d) for all heads; known are
            ``nn.MultiheadAttention`` and linear layers named like q, q_proj, query or qkv in a module
            that says its number of heads. The output projection, which mixes the heads, stays one.
        convolution: what of a convolution is to be isometric: its flattened kernel, as in the paper, or
            the operator that it is on images (:func:`isoplast.isometry.operator_penalty`).

    Returns:
        A list of parameter groups with names, for AdamO, or for any optimizer before ``attach``.

    Raises:
        IsoplastError: for a pattern that matches no parameter, an uninitialised parameter, a value
            out of range, a split that does not fit, or a head where there is no output layer.

    Example:
        >>> groups = param_groups(torch.nn.Sequential(torch.nn.Embedding(100, 8), torch.nn.Linear(8, 8)))
        >>> print(groups)
        parameter  shape  role       isometry  reason
        0.weight   100x8  embedding  no        a table of vectors, not a map between layers
        1.weight   8x8    head       yes       last linear layer
        1.bias     8      bias       no        a vector has no spectrum

    Reference:
        arXiv:2606.09762, Appendix A (convolutions, biases).
    """
    if isometry is not None and isometry_time is not None:
        raise IsoplastError(f"isometry={isometry} and isometry_time={isometry_time} exclude each other")
    isometry, isometry_time, head = (
        None if value is None else number(name, value)
        for name, value in (("isometry", isometry), ("isometry_time", isometry_time), ("head", head))
    )
    for name, value in (("isometry", isometry), ("head", head)):
        if value is not None and not 0.0 <= value < float("inf"):
            raise IsoplastError(f"Invalid {name} value: {value} (finite and >= 0)")
    split = {pattern: plain(value) for pattern, value in (split or {}).items()}
    batch_dims = {pattern: plain(value) for pattern, value in (batch_dims or {}).items()}
    if convolution not in ("kernel", "operator"):
        raise unknown("convolution", convolution, ("kernel", "operator"))
    decisions = decide(
        model, head=head, exclude=exclude, split=split, batch_dims=batch_dims, per_head=per_head
    )
    if convolution == "operator":
        decisions = [_as_operator(d, model) for d in decisions]
    common: dict[str, Any] = {}
    if isometry is not None:
        common["isometry"] = isometry
    if isometry_time is not None:
        common["isometry_time"] = isometry_time
    return ParamGroups(_groups(decisions, common), decisions)


def _as_operator(decision: Decision, model: nn.Module) -> Decision:
    """The decision about a convolution's kernel, turned into one about its operator."""
    module = model.get_submodule(decision.name.rpartition(".")[0])
    if not (decision.isometric and isinstance(module, CONVOLUTIONS + TRANSPOSED_CONVOLUTIONS)):
        return decision
    if len(set(module.stride)) > 1:
        raise IsoplastError(
            f"{decision.name}: its stride {module.stride} differs between directions, which the operator "
            f'form cannot take; leave it out with exclude=["{decision.name}"] or use convolution="kernel"'
        )
    stride = int(module.stride[0])
    return replace(decision, operator=stride, reason=f"operator of a convolution of stride {stride}")


def _groups(decisions: list[Decision], common: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups: dict[tuple[object, ...], dict[str, Any]] = {}
    for d in decisions:
        if d.isometric and d.strength != 0:
            key: tuple[object, ...] = (d.strength, d.split, d.batch_dims, d.operator)
            settings: dict[str, Any] = dict(common) if d.strength is None else {"isometry": d.strength}
            if d.split != 1:
                settings["isometry_split"] = d.split
            if d.batch_dims:
                settings["isometry_batch_dims"] = d.batch_dims
            if d.operator is not None:
                settings["isometry_operator"] = d.operator
        else:
            key = (d.role == "bias",)
            settings = {"isometry": 0.0} if d.role == "bias" else {"isometry": 0.0, "bias_decay": 0.0}
        groups.setdefault(key, {"params": [], **settings})["params"].append((d.name, d.parameter))
    return list(groups.values())
