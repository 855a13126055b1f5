"""Methods against the loss of plasticity, one per file, behind one small protocol.

Example:
    >>> get("adamo", isometry=3e-2).isometry
    0.03
"""

from isoplast.methods._combination import CLAIMS, Combination
from isoplast.methods._protocol import (
    Family,
    Inputs,
    Loss,
    Method,
    MethodInfo,
    Spectrum,
    StepContext,
    TaskContext,
    TaskMethod,
)
from isoplast.methods._registry import METHODS, get, names, register
from isoplast.methods._train_step import train_step
from isoplast.methods._training import Training, training
from isoplast.methods.architecture.activations import (
    AdaLin,
    CReLU,
    Fourier,
    IntervalDropout,
    MaxMin,
    SmoothLeaky,
)
from isoplast.methods.architecture.dropout import Dropout
from isoplast.methods.architecture.normalization import BatchNorm, LayerNorm
from isoplast.methods.churn.c_chain import CChain
from isoplast.methods.initial_state.adamw import AdamW
from isoplast.methods.initial_state.dash import DASH
from isoplast.methods.initial_state.feature_norm import FeatureNorm
from isoplast.methods.initial_state.l2 import L2
from isoplast.methods.initial_state.l2_init import L1Init, L2Init, L2InitResampled
from isoplast.methods.initial_state.l2er import L2ER
from isoplast.methods.initial_state.nap import NaP
from isoplast.methods.initial_state.shrink_perturb import ShrinkPerturb, ShrinkPerturbTasks
from isoplast.methods.initial_state.wasserstein import Wasserstein
from isoplast.methods.initial_state.weight_clipping import WeightClipping
from isoplast.methods.isometry.adamo import AdamO
from isoplast.methods.isometry.fire import Fire
from isoplast.methods.isometry.isometry_penalty import IsometryPenalty
from isoplast.methods.isometry.muono import MuonO
from isoplast.methods.isometry.newton_schulz import NewtonSchulz
from isoplast.methods.isometry.orthogonal_init import OrthogonalInit
from isoplast.methods.isometry.parseval import Parseval
from isoplast.methods.isometry.sgdo import SGDO
from isoplast.methods.isometry.spectral_norm import SpectralNorm
from isoplast.methods.isometry.spectral_regularization import SpectralRegularization
from isoplast.methods.optimizers.adam import Adam
from isoplast.methods.optimizers.equal_betas import EqualBetas
from isoplast.methods.optimizers.muon import Muon
from isoplast.methods.optimizers.perturbed_gradient import PerturbedGradient
from isoplast.methods.optimizers.sam import SAM
from isoplast.methods.optimizers.schedule_free import ScheduleFree
from isoplast.methods.optimizers.upgd import UPGD
from isoplast.methods.resets.cbp import ContinualBackprop
from isoplast.methods.resets.hare_tortoise import HareTortoise
from isoplast.methods.resets.plasticity_injection import PlasticityInjection
from isoplast.methods.resets.redo import ReDo
from isoplast.methods.resets.snr import SelfNormalizedResets
from isoplast.methods.resets.swr import SelectiveWeights
from isoplast.methods.resets.whole_resets import (
    FullReset,
    HeadReset,
    LastLayersReset,
    OptimizerReset,
    SoftenedMoments,
)
from isoplast.model import UnitGroup, Units, declare_units, head_name, head_names, trace_units

__all__ = [
    "CLAIMS",
    "DASH",
    "L2",
    "L2ER",
    "METHODS",
    "SAM",
    "SGDO",
    "UPGD",
    "AdaLin",
    "Adam",
    "AdamO",
    "AdamW",
    "BatchNorm",
    "CChain",
    "CReLU",
    "Combination",
    "ContinualBackprop",
    "Dropout",
    "EqualBetas",
    "Family",
    "FeatureNorm",
    "Fire",
    "Fourier",
    "FullReset",
    "HareTortoise",
    "HeadReset",
    "Inputs",
    "IntervalDropout",
    "IsometryPenalty",
    "L1Init",
    "L2Init",
    "L2InitResampled",
    "LastLayersReset",
    "LayerNorm",
    "Loss",
    "MaxMin",
    "Method",
    "MethodInfo",
    "Muon",
    "MuonO",
    "NaP",
    "NewtonSchulz",
    "OptimizerReset",
    "OrthogonalInit",
    "Parseval",
    "PerturbedGradient",
    "PlasticityInjection",
    "ReDo",
    "ScheduleFree",
    "SelectiveWeights",
    "SelfNormalizedResets",
    "ShrinkPerturb",
    "ShrinkPerturbTasks",
    "SmoothLeaky",
    "SoftenedMoments",
    "SpectralNorm",
    "SpectralRegularization",
    "Spectrum",
    "StepContext",
    "TaskContext",
    "TaskMethod",
    "Training",
    "UnitGroup",
    "Units",
    "Wasserstein",
    "WeightClipping",
    "declare_units",
    "get",
    "head_name",
    "head_names",
    "names",
    "register",
    "trace_units",
    "train_step",
    "training",
]
