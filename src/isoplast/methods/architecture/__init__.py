"""Methods that change activations or add normalisation."""
