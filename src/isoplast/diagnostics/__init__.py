"""Instruments: what a network's weights, Jacobians and activity say about its plasticity."""

from isoplast.diagnostics._result import format_number
from isoplast.diagnostics.activity._activity import Activity, LayerActivity, activity
from isoplast.diagnostics.health._diagnose import Diagnosis, diagnose
from isoplast.diagnostics.health._finding import Finding
from isoplast.diagnostics.health._inspection import Inspection, Moment, inspect
from isoplast.diagnostics.health._repair import Repair, RepairedLayer, repair_
from isoplast.diagnostics.jacobian._jacobian import Jacobian, jacobian
from isoplast.diagnostics.jacobian._spectrum import JacobianSpectrum
from isoplast.diagnostics.loss._curvature import Curvature, curvature
from isoplast.diagnostics.loss._gradients import Gradients, LayerGradient, gradients
from isoplast.diagnostics.loss._updates import (
    Churn,
    LayerUpdate,
    OutputChange,
    UpdateRatios,
    Updates,
    update_ratio,
)
from isoplast.diagnostics.monitor._alarms import PlasticityWarning
from isoplast.diagnostics.monitor._monitor import Monitor
from isoplast.diagnostics.ntk._ntk import ntk
from isoplast.diagnostics.ntk._result import NTK
from isoplast.diagnostics.plasticity._plasticity import Plasticity, Progress, plasticity
from isoplast.diagnostics.weights._convolutions import ConvSpectrum, conv_singular_values
from isoplast.diagnostics.weights._spectra import LayerSpectrum, WeightSpectra, weight_spectra

__all__ = [
    "NTK",
    "Activity",
    "Churn",
    "ConvSpectrum",
    "Curvature",
    "Diagnosis",
    "Finding",
    "Gradients",
    "Inspection",
    "Jacobian",
    "JacobianSpectrum",
    "LayerActivity",
    "LayerGradient",
    "LayerSpectrum",
    "LayerUpdate",
    "Moment",
    "Monitor",
    "OutputChange",
    "Plasticity",
    "PlasticityWarning",
    "Progress",
    "Repair",
    "RepairedLayer",
    "UpdateRatios",
    "Updates",
    "WeightSpectra",
    "activity",
    "conv_singular_values",
    "curvature",
    "diagnose",
    "format_number",
    "gradients",
    "inspect",
    "jacobian",
    "ntk",
    "plasticity",
    "repair_",
    "update_ratio",
    "weight_spectra",
]
