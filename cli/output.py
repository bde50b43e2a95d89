"""All output of commands: tables for people, tab-separated text for pipes, JSON for programs.

Results go to stdout, notices and errors to stderr. Nothing else in `cli` prints.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.streams import ReaderGoneError
from pipeline.redaction import redact

if TYPE_CHECKING:
    from pydantic import BaseModel

_SHOWN_CHARACTERS = 60
"""Longest text of a table's cell for people; pipes and JSON get all of it."""


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
    except BrokenPipeError:  # of a stream that is not ours
        raise ReaderGoneError from None


def is_terminal() -> bool:
    return sys.stdout.isatty()


def line(text: str = "") -> None:
    """One line of a result."""
    _write(f"{clean(text)}\n")


def whole(text: str) -> None:
    """A result that is a whole file: as it is, but for marks that the encoding of stdout lacks, which are escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    _write(text.encode(encoding, "backslashreplace").decode(encoding))


def notice(text: str) -> None:
    """Something a person should know, apart from the result; secrets are masked."""
    sys.stderr.write(f"{clean(redact(text))}\n")
    sys.stderr.flush()


def error(text: str) -> None:
    """Why the command failed; texts of several lines keep them."""
    for part in text.splitlines() or [""]:
        notice(f"vgen: {part}")


def as_json(value: BaseModel) -> None:
    """One JSON document."""
    indent = 2 if is_terminal() else None
    try:
        text = value.model_dump_json(indent=indent)
    except (ValueError, UnicodeError):  # pydantic writes no lone surrogates, as a name that is not UTF-8 has them
        separators = None if indent else (",", ":")
        text = json.dumps(value.model_dump(mode="json"), indent=indent, separators=separators, ensure_ascii=False)
    _write(f"{_encodable(text)}\n")


def flush() -> None:
    """Flush what was written to its reader now."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGoneError from None


def raw_json(value: Any) -> None:
    """One line of JSON."""
    _write(f"{_encodable(json.dumps(value, ensure_ascii=False, allow_nan=False))}\n")


def _encodable(text: str) -> str:
    """JSON with its own escapes for what the encoding of stdout lacks, lone surrogates included."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return re.sub(r"[^\x00-\x7f]", lambda mark: json.dumps(mark[0])[1:-1], text)
    return text


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: boxes on a terminal, tab-separated with a header line elsewhere."""
    if not is_terminal():
        for row in (columns, *rows):
            line("\t".join(_cell(value) for value in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(*columns)
    for row in rows:
        cells = [_cell(value) for value in row]
        # A path or URL must stay whole, so that it can be copied.
        grid.add_row(*(Text(cell if "/" in cell else _shorten(cell), overflow="fold") for cell in cells))
    Console().print(grid)


def jobs(count: int) -> str:
    """So many jobs, in words."""
    return "1 job" if count == 1 else f"{count} jobs"


def facts(pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values, a line each; what is None is left out."""
    cells = [(name, _cell(value)) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in cells), default=0)
    for name, value in cells:
        line(f"{name:<{width}}  {value}" if is_terminal() else f"{name}\t{value}")


def clean(text: str) -> str:
    """The text without control characters: a prompt must not drive the terminal or break a row."""
    if text.isprintable():
        return text
    return "".join(_shown(mark) for mark in text)


def _shown(mark: str) -> str:
    if "\udc80" <= mark <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(mark) - 0xDC00:02x}"
    return mark if mark == "\t" or unicodedata.category(mark) not in ("Cc", "Cs") else " "


def _cell(value: object) -> str:
    return clean("" if value is None else str(value)).replace("\t", " ")


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
