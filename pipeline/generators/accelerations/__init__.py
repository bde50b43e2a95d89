"""Applies accelerations to a loaded pipeline, one kind per file. Model files: they import torch and diffusers."""
