"""Weights on disk and on devices: the hub's cache, GPUs, models kept in host memory, the built-in model."""
