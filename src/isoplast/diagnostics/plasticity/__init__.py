"""The plasticity probe."""
