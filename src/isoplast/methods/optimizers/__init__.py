"""Methods that are optimizers, or change the optimizer's step."""
