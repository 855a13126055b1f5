"""Methods: listed and explained, with readable formulas."""
