"""Everything the commands write: tables for people, tab-separated text for pipes, JSON for programs.

Results go to stdout, notices and errors to stderr. Nothing else in `cli` prints.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.redaction import redact

if TYPE_CHECKING:
    from pydantic import BaseModel

_SHOWN_CHARACTERS = 60
"""Longest text of a table's cell for people; pipes and JSON get all of it."""


class ReaderGoneError(Exception):
    """Whoever read our output has closed it. Not an OSError, which typer would turn into exit code 1."""


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise ReaderGoneError from None


def is_terminal() -> bool:
    return sys.stdout.isatty()


def line(text: str = "") -> None:
    """One line of a result."""
    _write(f"{clean(text)}\n")


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
    _write(f"{value.model_dump_json(indent=2 if is_terminal() else None)}\n")


def flush() -> None:
    """Have what was written reach its reader now."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGoneError from None


def raw_json(value: Any) -> None:
    """One line of JSON."""
    _write(f"{json.dumps(value, ensure_ascii=False, allow_nan=False)}\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: boxes on a terminal, tab-separated with a header line elsewhere."""
    if not is_terminal():
        for row in (columns, *rows):
            line("\t".join(_cell(value) for value in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*columns)
    for row in rows:
        cells = [_cell(value) for value in row]
        # A path or URL must stay whole, so that it can be copied.
        shown.add_row(*(Text(cell if "/" in cell else _shorten(cell), overflow="fold") for cell in cells))
    Console().print(shown)


def facts(pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values, a line each; what is None is left out."""
    known = [(name, _cell(value)) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        line(f"{name:<{width}}  {value}" if is_terminal() else f"{name}\t{value}")


def clean(text: str) -> str:
    """The text without control characters: a prompt must not drive the terminal or break a row."""
    if text.isprintable():
        return text
    return "".join(c if c in "\t" or unicodedata.category(c) not in ("Cc", "Cs") else " " for c in text)


def _cell(value: object) -> str:
    return clean("" if value is None else str(value)).replace("\t", " ")


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
