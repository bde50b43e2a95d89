"""What a reader of a format gives: defaults and records of raw fields; it knows nothing of what they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.prompts.problems import Problems


class Record(NamedTuple):
    """The raw fields of one line (or of the file's defaults) and where they stand."""

    line: int
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Table:
    """What a file says. ``text`` is true when all values are text and numbers must be read from it."""

    defaults: tuple[Record, ...]
    records: Iterator[Record]
    text: bool


Reader = Callable[[bytes, Problems], Table]
