"""What methods ask about the units and output layers of a network, for those that others write, too."""

from isoplast.model import UnitGroup, Units, declare_units, head_name, head_names, trace_units

__all__ = ["UnitGroup", "Units", "declare_units", "head_name", "head_names", "trace_units"]
