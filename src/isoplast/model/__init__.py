"""Looking at and rebuilding somebody's network: its state preserved, its matrices and units by name."""

from isoplast.model._batches import non_finite_names, refuse_non_finite, sample_count, take_samples, usable
from isoplast.model._checkpoint import (
    Checkpoint,
    checkpoint_history,
    is_sharded,
    read_checkpoint,
    read_tensor,
    write_checkpoint,
)
from isoplast.model._clone import clone, copy_optimizer, freshly_made, parameter_pairs, redrawn
from isoplast.model._kernels import differentiable_kernels
from isoplast.model._matrices import Matrix, clean_name, matrices_of_module, matrices_of_state
from isoplast.model._parameters import Decision, decide
from isoplast.model._preserve_state import (
    outputs,
    preserve_state,
    refuse_batch_statistics,
    refuse_scripted,
    run,
    unwrap,
)
from isoplast.model._reconstructed import ReconstructedMLP, has_normalisation, reconstruct, silent_units
from isoplast.model._recording import ActivationRecorder
from isoplast.model.units._graph import graph_of
from isoplast.model.units._groups import Probe, Slot, UnitGroup, Units, feature_dim
from isoplast.model.units._units import declare_units, head_name, head_names, trace_units

__all__ = [
    "ActivationRecorder",
    "Checkpoint",
    "Decision",
    "Matrix",
    "Probe",
    "ReconstructedMLP",
    "Slot",
    "UnitGroup",
    "Units",
    "checkpoint_history",
    "clean_name",
    "clone",
    "copy_optimizer",
    "decide",
    "declare_units",
    "differentiable_kernels",
    "feature_dim",
    "freshly_made",
    "graph_of",
    "has_normalisation",
    "head_name",
    "head_names",
    "is_sharded",
    "matrices_of_module",
    "matrices_of_state",
    "non_finite_names",
    "outputs",
    "parameter_pairs",
    "preserve_state",
    "read_checkpoint",
    "read_tensor",
    "reconstruct",
    "redrawn",
    "refuse_batch_statistics",
    "refuse_non_finite",
    "refuse_scripted",
    "run",
    "sample_count",
    "silent_units",
    "take_samples",
    "trace_units",
    "unwrap",
    "usable",
    "write_checkpoint",
]
