"""A YAML document with the line of each of its values, for messages about what it holds."""

from collections.abc import Mapping
from typing import Any

from yaml import events

from pipeline.files.yaml_reader import YamlDocument

Path = tuple[str | int, ...]
"""Where a value is: the keys and, from 0, the places in lists that lead to it."""


def parse_yaml_with_lines(text: str) -> tuple[Any, Mapping[Path, int]]:
    """Return a document's value, None for an empty one, and the line (from 1) of each value in it.

    The line of a mapping's value is that of its key.

    Raises:
        YamlError: as ``parse_yaml``.
    """
    document = YamlDocument(text)
    event = document.begin()
    lines: dict[Path, int] = {}
    if event is None:
        return None, lines
    lines[()] = document.line(event)
    value = _value(document, event, (), lines)
    document.end()
    return value, lines


def _value(document: YamlDocument, event: Any, at: Path, lines: dict[Path, int]) -> Any:
    if isinstance(event, events.SequenceStartEvent) and len(at) < _DEPTH_WITH_LINES:
        return [_item(document, item, (*at, place), lines) for place, item in enumerate(document.items(event))]
    if isinstance(event, events.MappingStartEvent) and len(at) < _DEPTH_WITH_LINES:
        return {key: _entry(document, value, (*at, key), line, lines) for key, line, value in document.entries(event)}
    return document.value(event, len(at) + 1)


def _item(document: YamlDocument, event: Any, at: Path, lines: dict[Path, int]) -> Any:
    lines[at] = document.line(event)
    return _value(document, event, at, lines)


def _entry(document: YamlDocument, event: Any, at: Path, line: int, lines: dict[Path, int]) -> Any:
    lines[at] = line
    return _value(document, event, at, lines)


_DEPTH_WITH_LINES = 8
"""Deeper values are read, and no message names a line for them but that of what holds them."""
