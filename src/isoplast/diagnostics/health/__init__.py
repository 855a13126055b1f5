"""From numbers to findings, and what can be done about them."""
