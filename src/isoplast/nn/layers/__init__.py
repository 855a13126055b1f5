"""Activations and isometric layers."""
