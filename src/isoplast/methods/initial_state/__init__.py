"""Methods that keep a network near its initial state."""
