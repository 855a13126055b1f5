"""The hidden units of a network: which weights enter and leave each of them."""
