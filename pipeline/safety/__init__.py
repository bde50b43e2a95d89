"""Screening of prompts by a fastText classifier."""
