"""The names of GPU types: one grammar for prompt files, settings, queues and commands."""

import re

MAX_CHARS = 41
"""With a preset's part and the prefix, a queue's name stays below the 120 characters that a row holds."""
PATTERN = rf"[a-z0-9][a-z0-9-]{{0,{MAX_CHARS - 1}}}"
"""No dot: what comes after a dot in a queue's name is the preset."""


def is_gpu_type(name: str) -> bool:
    """Return whether a worker can bear this name."""
    return re.fullmatch(PATTERN, name) is not None


def check_gpu_type(name: str) -> str:
    """Return the name.

    Raises:
        ValueError: no worker can bear it; the message has the nearest name that one can.
    """
    if is_gpu_type(name):
        return name
    near = re.sub(r"[^a-z0-9]+", "-", name.lower())[:MAX_CHARS].strip("-")
    hint = f"use {near!r}" if is_gpu_type(near) else "use one such as 'h200' or 'a100-80gb'"
    raise ValueError(
        f"{name[:80]!r} is not a valid GPU type: {hint} (lower-case letters, digits and hyphens, at most {MAX_CHARS})"
    )
