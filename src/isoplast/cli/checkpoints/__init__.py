"""Checkpoints: inspected and repaired."""
