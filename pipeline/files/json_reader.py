"""Reads JSON from users, with limits on size, depth and digits; every mistake has a line and column.

Two equal keys in one object are refused: which of them counts would be a matter of the reader.
"""

import json
import math
import os
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.files.pipes import read_file_or_pipe

MAX_DEPTH = 64
MAX_DIGITS = 40
"""The most digits of a whole number: more than any field holds, and few enough that every operation is quick."""

_PARTS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{\]}]', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_PYTHON_WORDS = ("None", "True", "False")


class JsonError(ValueError):
    """Text that is not JSON, or breaks a limit; ``line`` and ``column`` count from 1, None where they are unknown."""

    def __init__(self, message: str, line: int | None = None, column: int | None = None, key: str | None = None):
        self.message, self.line, self.column, self.key = message, line, column, key
        super().__init__(message if column is None else f"{message} (at column {column})")


def read_json(path: str | os.PathLike[str], *, what: str, limit_bytes: int, allow_nan: bool = False) -> Any:
    """The value of a JSON file in UTF-8, UTF-16 or UTF-32; ``what`` names the file in messages.

    Raises:
        InputError: it cannot be read, or is not JSON within the limits; with the file's name, and the line where
            there is one. NaN and infinite numbers are refused unless ``allow_nan``.
    """
    return json_of_bytes(
        read_file_or_pipe(path, what=what, limit_bytes=limit_bytes), str(path), what=what, allow_nan=allow_nan
    )


def json_of_bytes(data: bytes, name: str, *, what: str, allow_nan: bool = False) -> Any:
    """Do what ``read_json`` does, for bytes of a file called ``name``."""
    try:
        text = data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError([Problem(f"{what} is not {error.encoding.upper()} text", name, line)]) from None
    try:
        value = parse_json(text, allow_nan=allow_nan)
        _require_characters(text, value)
    except JsonError as error:
        raise InputError([Problem(f"{what} is not JSON: {error}", name, error.line, error.key)]) from None
    return value


def parse_json(text: str, *, allow_nan: bool = False) -> Any:
    """The value of a JSON text.

    Raises:
        JsonError: it is not JSON, is nested deeper than ``MAX_DEPTH``, repeats a key, or holds a number that is too
            long.
    """
    _require_flat(text)
    numbers = _Numbers(allow_nan)
    try:
        value = json.loads(
            text,
            object_pairs_hook=numbers.unique,
            parse_int=numbers.whole,
            parse_float=numbers.float_,
            parse_constant=numbers.constant,
        )
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg}{_hint(text, error)}", error.lineno, error.colno) from None
    if numbers.refused is not None:  # it stands in a list, or alone
        raise JsonError(numbers.refused.message)
    return value


@dataclass(frozen=True, slots=True)
class _Refused:
    """Stands for a number that is refused until the key is known that it belongs to."""

    message: str


class _Numbers:
    def __init__(self, allow_nan: bool) -> None:
        self._allow_nan = allow_nan
        self.refused: _Refused | None = None

    def whole(self, text: str) -> object:
        digits = len(text.removeprefix("-"))
        return int(text) if digits <= MAX_DIGITS else self._refuse(f"a whole number of {digits} digits")

    def float_(self, text: str) -> object:
        value = float(text)
        return value if self._allow_nan or math.isfinite(value) else self._refuse(f"the number {text:.40}")

    def constant(self, text: str) -> object:
        return float(text) if self._allow_nan else self._refuse(text)

    def unique(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if self.refused is not None:
            for key, value in pairs:
                if isinstance(value, _Refused):
                    raise JsonError(value.message, key=key[:80])
        if len(result) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise JsonError(f"{key[:60]!r} is given twice")
                seen.add(key)
        return result

    def _refuse(self, what: str) -> _Refused:
        self.refused = _Refused(
            f"{what} is not allowed; whole numbers have at most {MAX_DIGITS} digits, all are finite"
        )
        return self.refused


def _require_flat(text: str) -> None:
    """A parser that calls itself for each bracket ends at Python's limit, which is not the same everywhere."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for part in _PARTS.finditer(text):
        bracket = part[0]
        if bracket in "[{":
            depth += 1
        elif bracket in "]}":
            depth -= 1
        if depth > MAX_DEPTH:
            line = text.count("\n", 0, part.start()) + 1
            column = part.start() - text.rfind("\n", 0, part.start())
            raise JsonError(f"it is nested more than {MAX_DEPTH} deep", line, column)


def _require_characters(text: str, value: object) -> None:
    """Half of a surrogate pair can be written as an escape, but it is not a character and no file can hold it."""
    if not _SURROGATE_ESCAPE.search(text):
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise JsonError(f"it holds a lone surrogate (U+{code:04X}), which is not a character") from None


def _hint(text: str, error: json.JSONDecodeError) -> str:
    """Return what programs and phones write where JSON has something else."""
    at = error.pos
    char, before = text[at : at + 1], text[max(at - 80, 0) : at].rstrip()[-1:]
    if char in "}]" and char and before == ",":
        return "; remove the comma before the bracket"
    if char == "," and error.msg.startswith("Extra data"):
        return "; remove the comma after the value"
    if char == "'":
        return "; JSON's quotes are double: \""
    if char and char in "“”„‟«»‘’":
        return f"; {char} is a typographic quote, JSON's is \""
    if char and not char.isascii() and (char.isspace() or unicodedata.category(char) == "Cf"):
        return f"; U+{ord(char):04X} ({unicodedata.name(char, 'a mark').lower()}) stands where only plain blanks may"
    if text.startswith(_PYTHON_WORDS, at):
        return "; JSON has null, true and false"
    return "; it ends too early" if not text[at:].strip() else ""
