"""Instruments inside a training loop."""
