"""Isometric layers, nonlinearities, initialisation, and the networks of the benchmarks."""

from isoplast.nn import _mlp as _mlp
from isoplast.nn._activations import AdaLin, CReLU, FourierFeatures, GroupSort, MaxMin, SmoothLeaky
from isoplast.nn._init import delta_orthogonal_, isometric_init_
from isoplast.nn._isometric import IsometricConv2d, IsometricLinear, to_plain
from isoplast.nn._layers import ACTIVATIONS
from isoplast.nn._mlp import MLP, MLPSpec
from isoplast.nn._operator import operator_penalty
from isoplast.nn._spec import NetSpec, build, names, spec

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "AdaLin",
    "CReLU",
    "FourierFeatures",
    "GroupSort",
    "IsometricConv2d",
    "IsometricLinear",
    "MLPSpec",
    "MaxMin",
    "NetSpec",
    "SmoothLeaky",
    "build",
    "delta_orthogonal_",
    "isometric_init_",
    "names",
    "operator_penalty",
    "spec",
    "to_plain",
]
