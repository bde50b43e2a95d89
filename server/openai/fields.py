"""The fields of a request under every spelling that clients have, as the fields of a prompt file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.errors import Problem
from server.errors import ApiError

_SPELLINGS = {"model": "preset", "input_reference": "image"}


def canonical(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields by their names in a prompt file."""
    return {_SPELLINGS.get(name, name): value for name, value in fields.items()}


def spelled(name: str) -> str:
    """Return the name by which clients know a field of a prompt file."""
    return next((spelling for spelling, field in _SPELLINGS.items() if field == name), name)


def refusal(problems: Sequence[Problem]) -> ApiError:
    """The answer that names every mistake by the client's own spelling; ``param`` is the first one's."""
    named = [(spelled(item.field) if item.field else None, item.message) for item in problems]
    message = "\n".join(f"{name}: {text}" if name else text for name, text in named)
    return ApiError(400, message, code="invalid_value", param=named[0][0])
