"""Sequences of environments, each a problem of studies."""
