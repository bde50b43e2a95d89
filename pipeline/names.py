"""Valid names of owners, labels and GPU types: one grammar each, used everywhere."""

import re
from collections.abc import Mapping

MAX_OWNER = 64
"""With the longest submission key, a batch's idempotency key stays within the 200 characters that a row holds."""
MAX_LABELS = 32
_MAX_LABEL_NAME, _MAX_LABEL_VALUE = 64, 256
MAX_GPU_TYPE = 41
"""With a preset's part and the prefix, a queue's name stays below the 120 characters that a row holds."""
GPU_TYPE_PATTERN = rf"[a-z0-9][a-z0-9-]{{0,{MAX_GPU_TYPE - 1}}}"
"""No dot: what comes after a dot in a queue's name is the preset."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def check_text(value: str, maximum: int, *, empty: bool = False) -> str:
    """Return the text.

    Raises:
        ValueError: it is too long, empty, or holds what no row can keep.
    """
    if len(value) > maximum:
        raise ValueError(f"has {len(value)} characters; at most {maximum} are allowed")
    if not empty and not value.strip():
        raise ValueError("is empty")
    if "\0" in value:
        raise ValueError(f"holds a NUL (U+0000) at character {value.index(chr(0)) + 1}")
    if not value.isascii() and (surrogate := _SURROGATE.search(value)):
        raise ValueError(f"holds a lone surrogate (U+{ord(surrogate[0]):04X}) at character {surrogate.start() + 1}")
    return value


def check_name(value: str, maximum: int) -> str:
    """Return the text, where it is one line that looks like itself. Raises ValueError."""
    check_text(value, maximum)
    if not value.isprintable() or value != value.strip():
        raise ValueError("holds a control character or begins or ends with a blank")
    return value


def check_owner(value: str) -> str:
    """Return the name of a batch's owner. Raises ValueError."""
    try:
        return check_name(value, MAX_OWNER)
    except ValueError as error:
        rule = f"use one line of at most {MAX_OWNER} characters"
        raise ValueError(f"{value[:80]!r} is not a valid owner: it {error}; {rule}") from None


def split_label(text: str) -> tuple[str, str | None]:
    """Return the name and value of ``name=value``; of a name alone the value is None.

    Raises:
        ValueError: it has no name.
    """
    name, equals, value = text.partition("=")
    if not name.strip():
        raise ValueError(f"{text!r} is not of the form name=value")
    return name.strip(), value.strip() if equals else None


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return a job's labels. Raises ValueError."""
    if len(labels) > MAX_LABELS:
        raise ValueError(f"has {len(labels)} labels; at most {MAX_LABELS} are allowed")
    for name, value in labels.items():
        for text, what, maximum in ((name, "name", _MAX_LABEL_NAME), (value, f"value of {name!r}", _MAX_LABEL_VALUE)):
            try:
                check_text(text, maximum, empty=what != "name")
            except ValueError as error:
                raise ValueError(f"label's {what}: {error}") from None
    return dict(labels)


def is_gpu_type(name: str) -> bool:
    """Return whether a worker can bear this name."""
    return re.fullmatch(GPU_TYPE_PATTERN, name) is not None


def check_gpu_type(name: str) -> str:
    """Return the name.

    Raises:
        ValueError: no worker can bear it; the message has the nearest name that one can.
    """
    if is_gpu_type(name):
        return name
    near = re.sub(r"[^a-z0-9]+", "-", name.lower())[:MAX_GPU_TYPE].strip("-")
    hint = f"use {near!r}" if is_gpu_type(near) else "use one such as 'h200' or 'a100-80gb'"
    raise ValueError(
        f"{name[:80]!r} is not a valid GPU type: {hint} "
        f"(lower-case letters, digits and hyphens, at most {MAX_GPU_TYPE})"
    )
