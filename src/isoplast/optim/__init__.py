"""Optimizers that keep weight matrices isometric: AdamO, and the same step for any other optimizer."""

from isoplast.optim._adamo import AdamO
from isoplast.optim._attach import Attachment, attach
from isoplast.optim._param_groups import Decision, ParamGroups, param_groups
from isoplast.optim._project import isometry_penalty, orthogonalize_
from isoplast.optim._reference import ReferenceAdamO
from isoplast.optim._report import IsometryReport, KeptMatrix

__all__ = [
    "AdamO",
    "Attachment",
    "Decision",
    "IsometryReport",
    "KeptMatrix",
    "ParamGroups",
    "ReferenceAdamO",
    "attach",
    "isometry_penalty",
    "orthogonalize_",
    "param_groups",
]
