"""Methods that reset units, layers or the optimizer."""
