"""Decisions as pure functions: where a step goes, which GPU holds which model, what is tried again, and when."""
