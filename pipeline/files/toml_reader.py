"""Reads TOML from users, with limits on size and depth; every error has its place."""

import os
import re
import tomllib
from datetime import date, time
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.files.regular import read_regular_file

MAX_DEPTH = 16
MAX_WHOLE = 2**63 - 1
"""TOML's whole numbers have 64 bits; Python's parser reads any."""
_MANY_DIGITS = re.compile(rb"[0-9_]{1000}")


class _OutOfRangeError(ValueError):
    pass


def read_toml(path: str | os.PathLike[str], *, what: str, limit_bytes: int) -> dict[str, Any]:
    """The tables of a TOML file in UTF-8, with or without a byte order mark; ``what`` names the file in messages.

    Raises:
        InputError: it cannot be read, is not TOML, or holds a number or a nesting beyond the limits.
    """
    return toml_of_bytes(read_regular_file(path, what=what, limit_bytes=limit_bytes), str(path), what=what)


def toml_of_bytes(data: bytes, name: str, *, what: str) -> dict[str, Any]:
    """Do what ``read_toml`` does, for bytes of a file called ``name``."""
    try:
        values = tomllib.loads(data.decode("utf-8-sig"))
        _require_bounded(values)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError([Problem(f"{what} is not UTF-8", name, line)]) from None
    except RecursionError:
        raise InputError([Problem(f"{what} is nested more than {MAX_DEPTH} deep", name)]) from None
    except (tomllib.TOMLDecodeError, _OutOfRangeError) as error:
        raise InputError([Problem(f"{what} is not TOML: {error}", name)]) from None
    except ValueError:  # Python's own, of a number of thousands of digits
        digits = _MANY_DIGITS.search(data)
        place = None if digits is None else data.count(b"\n", 0, digits.start()) + 1
        raise InputError([Problem(f"{what} is not TOML: it holds a number out of range", name, place)]) from None
    return values


def _require_bounded(values: dict[str, Any]) -> None:
    """Not by recursion: a key of thousands of dots makes as many tables, one in the other."""
    level: list[tuple[str, Any]] = list(values.items())
    for _ in range(MAX_DEPTH):
        inner: list[tuple[str, Any]] = []
        for key, value in level:
            if isinstance(value, dict):
                inner += value.items()
            elif isinstance(value, list):
                inner += [(key, item) for item in value]
            elif isinstance(value, int) and not -MAX_WHOLE - 1 <= value <= MAX_WHOLE:
                raise _OutOfRangeError(f"{key[:60]!r} is a whole number of more than 64 bits")
            elif isinstance(value, date | time):
                raise _OutOfRangeError(f"{key[:60]!r} is a date or a time, and nothing here is one; write it in quotes")
        if not inner:
            return
        level = inner
    raise _OutOfRangeError(f"it is nested more than {MAX_DEPTH} deep")
