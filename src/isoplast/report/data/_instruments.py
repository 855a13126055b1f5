"""What the instruments read, as figures show it: the one list of names, axes and ways to sum up layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Instrument:
    """How a metric is drawn.

    Attributes:
        label: what its axis or heading says.
        log: whether the axis is logarithmic; mean and band are then of the logarithms.
        over_layers: how the values of several matrices or activations become one (it takes `axis`); None for
            a metric of the whole network.
    """

    label: str
    log: bool = False
    over_layers: Callable[..., Any] | None = None


PER_MATRIX = {
    "sigma_max": Instrument("largest singular value", True, np.nanmax),
    "sigma_min": Instrument("smallest singular value", True, np.nanmin),
    "sigma_mean": Instrument("mean singular value", False, np.nanmean),
    "condition_number": Instrument("condition number of the weights", True, np.nanmax),
    "effective_rank": Instrument("effective rank of the weights", False, np.nanmean),
    "gram_deviation": Instrument("deviation from isometry", True, np.nanmean),
}
PER_ACTIVATION = {
    "dead": Instrument("dead units", False, np.nanmean),
    "dormant": Instrument("dormant units", False, np.nanmean),
}
# Of the whole network, from the probes at task boundaries.
PROBES = {
    "plasticity_learned": Instrument("plasticity probe"),
    "ntk_participation_rank": Instrument("NTK participation rank", True),
    "ntk_condition_number": Instrument("NTK condition number", True),
    "jacobian_condition_number": Instrument("Jacobian condition number", True),
    "ntk_policy_condition_number": Instrument("NTK condition number, policy alone", True),
    "ntk_value_condition_number": Instrument("NTK condition number, value alone", True),
    "policy_churn": Instrument("churn of the policy, nats", True),
    "value_churn": Instrument("churn of the value", True),
    "greedy_churn": Instrument("churn of the greedy action, share"),
}
INSTRUMENTS = {**PER_MATRIX, **PER_ACTIVATION, **PROBES}
