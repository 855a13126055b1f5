"""Figures: interactive ones for pages, static ones for documents."""
