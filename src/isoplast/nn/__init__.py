"""Isometric layers, nonlinearities, initialisation, and the networks of the benchmarks."""

from isoplast._core.layer_kinds import Activation
from isoplast.nn._initialisation import delta_orthogonal_, isometric_init_
from isoplast.nn.layers._activations import AdaLin, CReLU, FourierFeatures, GroupSort, MaxMin, SmoothLeaky
from isoplast.nn.layers._interval_dropout import IntervalDropout
from isoplast.nn.layers._isometric import IsometricConv2d, IsometricLinear, OrthogonalWeight, to_plain
from isoplast.nn.networks._choices import ACTIVATIONS
from isoplast.nn.networks._cnn import CNN, CNNSpec
from isoplast.nn.networks._gpt import GPT, GPTSpec
from isoplast.nn.networks._mlp import MLP, MLPSpec
from isoplast.nn.networks._octax_cnn import OctaxCNN, OctaxCNNSpec
from isoplast.nn.networks._resnet import ResNet18, ResNet18Spec
from isoplast.nn.networks._spec import NETS, LayeredSpec, NetSpec, build, names, register, spec
from isoplast.nn.networks._transformer import Attention
from isoplast.nn.networks._vit import ViT, ViTSpec

__all__ = [
    "ACTIVATIONS",
    "CNN",
    "GPT",
    "MLP",
    "NETS",
    "Activation",
    "AdaLin",
    "Attention",
    "CNNSpec",
    "CReLU",
    "FourierFeatures",
    "GPTSpec",
    "GroupSort",
    "IntervalDropout",
    "IsometricConv2d",
    "IsometricLinear",
    "LayeredSpec",
    "MLPSpec",
    "MaxMin",
    "NetSpec",
    "OctaxCNN",
    "OctaxCNNSpec",
    "OrthogonalWeight",
    "ResNet18",
    "ResNet18Spec",
    "SmoothLeaky",
    "ViT",
    "ViTSpec",
    "build",
    "delta_orthogonal_",
    "isometric_init_",
    "names",
    "register",
    "spec",
    "to_plain",
]
