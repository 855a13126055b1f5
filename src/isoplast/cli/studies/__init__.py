"""Runs, studies and tunings: done, planned and summed up."""
