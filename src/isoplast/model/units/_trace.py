"""Following the units of a network through its computation.

Every linear layer and convolution starts a set of units; operations carry the set on, sums and products join
sets, further layers read it. What comes together this way is one group: all the rows that write its units
and all the columns that read them. A set that meets an operation we do not know, or the outputs, is left
out with the reason.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import torch.fx
from torch import nn

from isoplast._core.layer_kinds import (
    CONVOLUTIONS,
    LAYERS,
    NORMALISATIONS,
    PASSING_FUNCTIONS,
    PASSING_MODULES,
    POOLS,
    PRODUCTS,
    RECURRENT,
    SIZES,
    SUMS,
    UNIT_FUNCTIONS,
    Activation,
    function_name,
    is_activation,
)
from isoplast.model.units._graph import graph_of
from isoplast.model.units._groups import (
    Probe,
    Slot,
    Units,
    feature_dim,
    mixes,
    slots_of_norm,
    slots_of_rows,
)
from isoplast.model.units._layout import Layout, Untraceable, arguments, keeps_batch, picks_position
from isoplast.model.units._sets import Forest, UnitSet
from isoplast.nn import AdaLin, Attention

_FEED_FORWARD = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_OPAQUE = (*RECURRENT, nn.Transformer, nn.TransformerEncoder, *_FEED_FORWARD)


def follow(model: nn.Module) -> Units:
    """Trace a model and return its groups of units.

    Raises:
        IsoplastError: for a model that cannot be traced.
    """
    return _Follower(model, graph_of(model)).run()


class _Follower:
    """One walk over the graph, in the order of the computation."""

    def __init__(self, model: nn.Module, graph: torch.fx.Graph) -> None:
        self.model = model
        self.graph = graph
        self.modules = dict(model.named_modules())
        self.forest = Forest()
        self.layouts: dict[Any, Layout] = {}
        self.constants: set[Any] = set()
        self.started: dict[str, int] = {}
        self.calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        self.left_out: dict[str, str] = {}

    def run(self) -> Units:
        """Follow everything, then collect the groups."""
        for node in self.graph.nodes:
            try:
                layout = self._visit(node)
                if layout is not None:
                    self.layouts[node] = layout
            except Untraceable as lost:
                for source in node.all_input_nodes:
                    if source in self.layouts:
                        self.forest.of(self.layouts[source]).lose(str(lost))
        self.forest.tie()
        for node in self.graph.nodes:
            if node.op == "get_attr":
                owner, _, own = str(node.target).rpartition(".")
                self.forest.used_bare(getattr(self.modules[owner], own), str(node.target))
        hidden = [found for found in self.forest.roots() if found.hidden]
        for found in hidden:
            if found.why_not():
                names = [name for name in found.activations if name] or [found.title]
                self.left_out.update(dict.fromkeys(names, found.why_not()))
        titles = Counter(found.title for found in hidden)
        # A nonlinearity that serves several layers names none of them.
        named = [(found.title if titles[found.title] == 1 else found.name, found) for found in hidden]
        return Units([found.group(name) for name, found in named if not found.why_not()], self.left_out)

    def _visit(self, node: torch.fx.Node) -> Layout | None:
        if node.op == "output":
            raise Untraceable("its units are outputs of the network")
        if node.op == "call_module":
            return self._module(node, str(node.target), self.modules[str(node.target)])
        sources = node.all_input_nodes
        name = function_name(node.target)
        known = [self.layouts[source] for source in sources if source in self.layouts]
        if node.op == "get_attr" or name in SIZES:
            self.constants.add(node)
        elif known:
            return self._function(node, name, known[0])
        elif node.op != "placeholder" and all(source in self.constants for source in sources):
            self.constants.add(node)
        return None

    def _module(self, node: torch.fx.Node, name: str, module: nn.Module) -> Layout | None:
        layout = self.layouts.get(node.all_input_nodes[0]) if node.all_input_nodes else None
        if isinstance(module, LAYERS):
            self._read(name, module, layout)
            return self._write(name, module)
        if isinstance(module, Attention):
            return self._attention(name, module, layout)
        if isinstance(module, _OPAQUE):
            self._inside(name, module)
        if layout is None:
            if any(source in self.layouts for source in node.all_input_nodes):
                raise Untraceable(f"units are not followed through {type(module).__name__} ({name})")
            if is_activation(module):
                self.left_out[name] = "what it acts on is not known to come from a layer"
            return None
        if is_activation(module):
            return self._activation(name, module, layout)
        if isinstance(module, NORMALISATIONS):
            return self._norm(name, module, layout)
        if isinstance(module, nn.Flatten):
            return layout.flattened(module.start_dim, module.end_dim)
        if isinstance(module, PASSING_MODULES) and not (isinstance(module, POOLS) and layout.dim == -1):
            return layout
        raise Untraceable(f"units are not followed through {type(module).__name__} ({name})")

    def _function(self, node: torch.fx.Node, name: str, layout: Layout) -> Layout:
        if name in UNIT_FUNCTIONS:
            self.forest.of(layout).activations.append("")
            return dataclasses.replace(layout, active=True)
        if name in PASSING_FUNCTIONS and not ("pool" in name and layout.dim == -1):
            return layout
        if name in SUMS or name in PRODUCTS:
            return self._combined(node, name in SUMS)
        if name == "flatten":
            return layout.flattened(*arguments(node, ("start_dim", 0), ("end_dim", -1)))
        if name in ("view", "reshape") and keeps_batch(node):
            return layout.flattened(1, -1)
        if name in ("mean", "amax", "sum"):
            return layout.reduced(*arguments(node, ("dim", None), ("keepdim", False)))
        if name == "permute":
            return layout.permuted(node.args[1:])
        if name in ("transpose", "swapaxes"):
            return layout.transposed(node.args[1:])
        if name == "getitem" and picks_position(node.args[1]) and layout.dim == -1 and layout.rank != 2:
            return dataclasses.replace(layout, rank=None)
        raise Untraceable(f"units are not followed through {name}")

    def _write(self, name: str, module: nn.Module) -> Layout:
        """A layer starts a set of units, the same one at every call."""
        dim = feature_dim(module)
        if name not in self.started:
            slots = slots_of_rows(name, module)
            found = UnitSet(name, module.weight.shape[0], dict.fromkeys(slots))  # type: ignore[arg-type, index]
            self.started[name] = self.forest.start(found)
            self.forest.own(self.model, slots, self.started[name], "write")
        return Layout(self.started[name], dim, None if dim == -1 else 1 - dim)

    def _read(self, name: str, module: nn.Module, layout: Layout | None) -> None:
        """A layer reads units: columns of a full weight, rows of a depthwise kernel."""
        if layout is None:
            return
        found = self.forest.of(layout)
        groups = module.groups if isinstance(module, CONVOLUTIONS) else 1
        depthwise = isinstance(module, CONVOLUTIONS) and groups == module.in_channels > 1
        if layout.dim != feature_dim(module):
            found.lose(f"{name} reads another dimension than the units lie in")
        elif groups > 1 and not depthwise:
            found.lose(f"{name} is a grouped convolution")
        else:
            width = module.in_channels if isinstance(module, CONVOLUTIONS) else module.in_features
            try:
                parts, inner = layout.fill(int(width), found.size)  # type: ignore[arg-type]
            except Untraceable as lost:
                found.lose(f"{name}: {lost}")
                return
            found.inputs[Probe(name, "input", layout.dim, parts, inner)] = None
            if depthwise:
                assert isinstance(module, CONVOLUTIONS)
                inner *= module.out_channels // module.in_channels
            slot = Slot(name, "weight", 0 if depthwise else 1, parts, inner)
            found.outgoing[slot] = None
            self.forest.own(self.model, [slot], layout.root, "read")

    def _attention(self, name: str, module: Attention, layout: Layout | None) -> Layout:
        """Every projection reads the tokens. The values of all heads lie side by side: rows, then columns."""
        for part in ("query", "key", "value"):
            self._read(f"{name}.{part}", getattr(module, part), layout)
        values = self._write(f"{name}.value", module.value)
        self.forest.of(values).values = True
        self._read(f"{name}.output", module.output, values)
        return self._write(f"{name}.output", module.output)

    def _inside(self, name: str, module: nn.Module) -> None:
        """A module of torch that stays whole: its MLP sublayers are known, other units in it are not."""
        for own, child in module.named_modules(prefix=name):
            if isinstance(child, _FEED_FORWARD):
                layout = self._write(f"{own}.linear1", child.linear1)
                self.forest.of(layout).activations.append("")
                self._read(f"{own}.linear2", child.linear2, layout)
            elif isinstance(child, RECURRENT):
                self.left_out[own] = f"its units are inside of {type(child).__name__}"

    def _activation(self, name: str, module: nn.Module, layout: Layout) -> Layout:
        found = self.forest.of(layout)
        found.activations.append(name)
        expansion, members, dim = 1, 1, None
        if isinstance(module, Activation):
            expansion, members, dim = module.expansion, module.group_size, module.dim
        if expansion > 1 or members > 1:
            apart = members > 1 and (layout.parts, layout.inner) != (1, 1)
            if apart or dim is None or layout.from_end(dim) != layout.dim:
                raise Untraceable(f"{name} acts along another dimension than the units lie in")
            found.members = max(found.members, members)
        if isinstance(module, AdaLin):
            self._own_norm(found, name, ("alpha",), layout, len(module.alpha))
        if expansion > 1 and layout.parts is not None:
            found.expansion *= expansion
            layout = dataclasses.replace(layout, parts=layout.parts * expansion)
        if self.calls[name] == 1 and layout.parts is not None and layout.inner is not None:
            found.outputs[Probe(name, "output", layout.dim, layout.parts, layout.inner)] = None
        return dataclasses.replace(layout, active=True)

    def _norm(self, name: str, module: nn.Module, layout: Layout) -> Layout:
        found = self.forest.of(layout)
        if isinstance(module, nn.LayerNorm | nn.RMSNorm) and (
            layout.dim != -1 or len(module.normalized_shape) > 1
        ):
            raise Untraceable(f"{name} normalises over more than the units")
        found.normed_after |= layout.active
        found.mixed |= mixes(module)
        slots = slots_of_norm(name, module, 1, 1)
        if slots:
            tensors = tuple(slot.tensor for slot in slots)
            layout = self._own_norm(found, name, tensors, layout, slots[0].find(self.model).shape[0])
        return layout

    def _own_norm(
        self, found: UnitSet, name: str, tensors: tuple[str, ...], layout: Layout, width: int
    ) -> Layout:
        """A unit owns its entries of these tensors, which have one for each feature."""
        parts, inner = layout.fill(width, found.size)
        slots = [Slot(name, tensor, 0, parts, inner) for tensor in tensors]
        found.norms.update(dict.fromkeys(slots))
        self.forest.own(self.model, slots, layout.root, "scale")
        return dataclasses.replace(layout, parts=parts, inner=inner)

    def _combined(self, node: torch.fx.Node, is_sum: bool) -> Layout:
        """The sum or product of two values, at least one of which holds units."""
        layouts = [self.layouts[arg] for arg in node.args[:2] if arg in self.layouts]
        if len(layouts) == 1:
            # Neither a number nor a parameter: a stream that no layer we know writes.
            if is_sum and any(
                source not in self.layouts and source not in self.constants for source in node.all_input_nodes
            ):
                raise Untraceable("it is added to something that no layer writes")
            return layouts[0]
        first, second = layouts
        if (first.dim, first.parts, first.inner) != (second.dim, second.parts, second.inner):
            raise Untraceable("it is combined with values in which units lie otherwise")
        self.forest.join(first.root, second.root)
        return dataclasses.replace(
            first,
            rank=second.rank if first.rank is None else first.rank,
            active=first.active or second.active,
        )
