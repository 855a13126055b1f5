"""Looking at and rebuilding somebody's network: its state preserved, its matrices and units by name."""

from isoplast.model._batches import non_finite_names, refuse_non_finite, sample_count, take_samples, usable
from isoplast.model._clone import clone, copy_optimizer, freshly_made, parameter_pairs, redrawn
from isoplast.model._functional import (
    applied,
    dense,
    one_tensor,
    outputs,
    parameter_names,
    refuse_made_late,
    replaced,
    run,
)
from isoplast.model._kernels import differentiable_kernels
from isoplast.model._matrices import Matrix, clean_name, matrices_of_module, matrices_of_state
from isoplast.model._parameters import Decision, decide
from isoplast.model._preserve_state import (
    preserve_state,
    refuse_batch_statistics,
    refuse_scripted,
    refuse_unready,
    unwrap,
)
from isoplast.model._reconstructed import ReconstructedMLP, has_normalisation, reconstruct, silent_units
from isoplast.model._recording import ActivationRecorder
from isoplast.model._sharded import refuse_flattened, refuse_sharded, sharded_names, whole
from isoplast.model.files._checkpoint import (
    Checkpoint,
    read_checkpoint,
    read_tensor,
)
from isoplast.model.files._history import checkpoint_history, is_sharded
from isoplast.model.files._networks import Network
from isoplast.model.files._torch_file import NoWeights
from isoplast.model.files._writing import check_target, write_checkpoint
from isoplast.model.units._graph import graph_of
from isoplast.model.units._groups import Probe, Slot, UnitGroup, Units, feature_dim
from isoplast.model.units._units import declare_units, head_name, head_names, trace_units

__all__ = [
    "ActivationRecorder",
    "Checkpoint",
    "Decision",
    "Matrix",
    "Network",
    "NoWeights",
    "Probe",
    "ReconstructedMLP",
    "Slot",
    "UnitGroup",
    "Units",
    "applied",
    "check_target",
    "checkpoint_history",
    "clean_name",
    "clone",
    "copy_optimizer",
    "decide",
    "declare_units",
    "dense",
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
    "one_tensor",
    "outputs",
    "parameter_names",
    "parameter_pairs",
    "preserve_state",
    "read_checkpoint",
    "read_tensor",
    "reconstruct",
    "redrawn",
    "refuse_batch_statistics",
    "refuse_flattened",
    "refuse_made_late",
    "refuse_non_finite",
    "refuse_scripted",
    "refuse_sharded",
    "refuse_unready",
    "replaced",
    "run",
    "sample_count",
    "sharded_names",
    "silent_units",
    "take_samples",
    "trace_units",
    "unwrap",
    "usable",
    "whole",
    "write_checkpoint",
]
