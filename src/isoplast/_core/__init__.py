"""What every other package stands on: errors, settings, whole files, kinds of layers."""
