"""Prompt enhancement by OpenAI-compatible language-model servers."""
