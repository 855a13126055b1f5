"""Instruments: what a network's weights, Jacobians and activity say about its plasticity."""

from isoplast.diagnostics._conv import ConvSpectrum, conv_singular_values

__all__ = ["ConvSpectrum", "conv_singular_values"]
