"""Methods that reduce the change of outputs on other data."""
