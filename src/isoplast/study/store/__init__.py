"""The directories of runs and studies, and reading them back."""
