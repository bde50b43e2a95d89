"""The output of a format's reader: defaults and records of raw fields, without their meaning."""

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
    """The content of a file. ``text`` is true when all values are text and numbers must be read from it."""

    defaults: tuple[Record, ...]
    records: Iterator[Record]
    text: bool


Reader = Callable[[bytes, Problems], Table]
