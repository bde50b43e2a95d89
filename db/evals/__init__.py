"""Evaluation runs, and the steps that score their clips."""
