"""Notes on what a clip will not show of its input files."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_NAMED = 3
"""Names in one sentence; a file of a thousand photos has a thousand."""
_FIELDS = ("image", "last_image", "video", "reference_images")


def sentences(inputs: Iterable[tuple[str, Iterable[str]]]) -> list[str]:
    """A sentence for each kind of note, with the names of the inputs that have it; given as (name, notes)."""
    names: dict[str, list[str]] = {}
    for name, notes in inputs:
        for note in notes:
            names.setdefault(note, []).append(name)
    return [f"{_listed(of_note)} {note}" for note, of_note in names.items()]


def of_spec(spec: Mapping[str, Any]) -> list[str]:
    """The same of a stored specification."""
    return sentences((ref["name"], ref.get("notes", ())) for ref in _refs(spec))


def _refs(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for field in _FIELDS:
        value = spec.get(field)
        yield from value if isinstance(value, list | tuple) else [value] if value else []


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    listed = ", ".join(repr(name) for name in names[:_NAMED])
    return f"{listed} and {more} more inputs (each)" if more > 0 else listed
