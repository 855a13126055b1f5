"""Environments behind one batched interface."""
