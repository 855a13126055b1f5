"""Optimizers that keep weight matrices isometric: AdamO, and the same step for any other optimizer."""

from isoplast.model import Decision
from isoplast.optim._adamo import AdamO
from isoplast.optim._attach import Attachment, attach
from isoplast.optim._groups import DEFAULT_ISOMETRY, GROUP_DEFAULTS
from isoplast.optim._muon import AdjustLR, muon_with_adam
from isoplast.optim._param_groups import ParamGroups, param_groups
from isoplast.optim._project import isometry_penalty, orthogonalize_
from isoplast.optim._reference import ReferenceAdamO
from isoplast.optim._report import IsometryReport, KeptMatrix, isometry_report

__all__ = [
    "DEFAULT_ISOMETRY",
    "GROUP_DEFAULTS",
    "AdamO",
    "AdjustLR",
    "Attachment",
    "Decision",
    "IsometryReport",
    "KeptMatrix",
    "ParamGroups",
    "ReferenceAdamO",
    "attach",
    "isometry_penalty",
    "isometry_report",
    "muon_with_adam",
    "orthogonalize_",
    "param_groups",
]
