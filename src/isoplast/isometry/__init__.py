"""Isometry of matrices: pure functions on tensors of shape (..., m, n).

An isometry has all its singular values equal to one. Everything here measures the distance to that
state or moves towards it. Nothing here knows about modules or optimizers; torch is all it needs.
"""

from isoplast.isometry._gram import (
    gram_deviation,
    gram_deviation_in_strips,
    penalty,
    penalty_gradient,
    times_small_side,
)
from isoplast.isometry._operator import operator_penalty, operator_step, operator_step_
from isoplast.isometry._orthogonal import newton_schulz, polar_factor, power_iteration
from isoplast.isometry._precision import no_autocast, working
from isoplast.isometry._spectrum import (
    Spectrum,
    effective_rank,
    effective_rank_energy,
    singular_values,
    spectrum,
    stable_rank,
    svdvals,
)
from isoplast.isometry._steps import flow_step, flow_step_, isometry_step, isometry_step_
from isoplast.isometry._views import (
    Split,
    edit_matrices_,
    is_matrix,
    join_matrices,
    matrix_view,
    matrix_views,
)

__all__ = [
    "Spectrum",
    "Split",
    "edit_matrices_",
    "effective_rank",
    "effective_rank_energy",
    "flow_step",
    "flow_step_",
    "gram_deviation",
    "gram_deviation_in_strips",
    "is_matrix",
    "isometry_step",
    "isometry_step_",
    "join_matrices",
    "matrix_view",
    "matrix_views",
    "newton_schulz",
    "no_autocast",
    "operator_penalty",
    "operator_step",
    "operator_step_",
    "penalty",
    "penalty_gradient",
    "polar_factor",
    "power_iteration",
    "singular_values",
    "spectrum",
    "stable_rank",
    "svdvals",
    "times_small_side",
    "working",
]
