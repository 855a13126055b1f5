"""Checkpoints: files read without their code, and written."""
