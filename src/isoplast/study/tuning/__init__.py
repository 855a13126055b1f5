"""The same tuning for every method: a space, a search, a choice, a frozen study."""
