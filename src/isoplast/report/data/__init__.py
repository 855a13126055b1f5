"""The results of a study, prepared for pages and figures."""
