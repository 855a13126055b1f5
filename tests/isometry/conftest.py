"""Hypothesis for tensors: a fixed set of examples, and no deadline, since a loaded machine is slow."""

from hypothesis import settings

settings.register_profile("isoplast", deadline=None, derandomize=True, max_examples=40, print_blob=True)
settings.load_profile("isoplast")
