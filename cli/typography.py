"""Finds options that an editor or a chat has changed: long dashes for `--`, curly quotation marks for straight ones."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.command_words import walk
from pipeline.errors import InputError

if TYPE_CHECKING:
    import typer

DASHES = "‐‑‒–—―⁃−﹘﹣－\u00ad\u2e3a\u2e3b"
"""The characters that stand where a hyphen-minus was typed."""
_QUOTES = "“”„‟‘’‚‛«»"
_PLAIN = str.maketrans(dict.fromkeys(DASHES, "-") | dict.fromkeys("“”„‟«»", '"') | dict.fromkeys("‘’‚‛", "'"))
_TEXT_OPTIONS = frozenset({"--negative-prompt", "--prompt", "--title", "--note", "--reason"})
"""Their values are sentences, which may hold any quotation marks."""


def refuse_typographic_options(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Look for options with typographic dashes or quotation marks.

    Raises:
        InputError: there is one; the message has what to write.
    """
    if not any(mark in argument for argument in arguments for mark in (*DASHES, *_QUOTES)):
        return
    import typer.main

    for argument, options, value_of in walk(typer.main.get_command(app), arguments):
        if value_of is not None:
            _check_value(value_of, argument)
            continue
        _check_name(argument, options)
        name, equals, value = argument.partition("=")
        if equals and name in options:
            _check_value(name, value)


def _check_value(option: str, value: str) -> None:
    plain = value.strip(_QUOTES)
    if plain != value and option not in _TEXT_OPTIONS:
        raise InputError(f"{option} {value}: these quotation marks are not those of a shell: write {option} '{plain}'")


def _check_name(argument: str, options: dict[str, Any]) -> None:
    name = argument.partition("=")[0]
    plain = name.translate(_PLAIN)
    if plain == name or not plain.startswith("-"):
        return
    bare = plain.lstrip("-")
    option = next((known for known in (f"--{bare}", f"-{bare}") if known in options), None)
    if option is not None:
        mark = next(mark for mark in name if mark in DASHES)
        called = f"U+{ord(mark):04X} ({unicodedata.name(mark, 'unnamed').lower()})"
        raise InputError(f"{name!r} has the dash {called}, which no option begins with: write {option}")
