"""Results that are there: listed, shown, removed, followed."""
