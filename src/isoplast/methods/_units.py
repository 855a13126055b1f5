"""Where the units of a network were before 0.1; they are offered by `isoplast.methods`. Goes with 0.2."""

from isoplast.model import UnitGroup, Units, declare_units, head_name, trace_units

__all__ = ["UnitGroup", "Units", "declare_units", "head_name", "trace_units"]
