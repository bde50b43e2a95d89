"""Parses a command line into words and their roles, and finds the options that are allowed anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, Problem

if TYPE_CHECKING:
    import typer

HELP = ("-h", "--help")
_GLOBAL = frozenset({"--home", "--debug"})
"""Options of `vgen` itself that may also stand behind a command."""


def walk(command: Any, arguments: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], str | None]]:
    """Yield each argument up to ``--``, with the options that are known there, and the one whose value it is."""
    options = _options(command)
    value_of: str | None = None
    for argument in arguments:
        if argument == "--":
            return
        yield argument, options, value_of
        if value_of is not None:
            value_of = None
        elif argument in options:
            value_of = argument if _takes_value(options[argument]) else None
        elif argument in getattr(command, "commands", {}):
            command = command.commands[argument]
            options = options | _options(command)


def global_options_first(app: typer.Typer, arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the global options before the command, wherever they stood.

    Raises:
        InputError: one of them has no value.
    """
    if not any(argument.partition("=")[0] in _GLOBAL for argument in arguments):
        return list(arguments)
    import typer.main

    first: list[str] = []
    others: list[str] = []
    for argument, _, value_of in walk(typer.main.get_command(app), arguments):
        is_global = value_of in _GLOBAL or (value_of is None and argument.partition("=")[0] in _GLOBAL)
        (first if is_global else others).append(argument)
    if first and first[-1] == "--home":
        raise InputError([Problem("needs a folder", field="--home")])
    return [*first, *others, *arguments[len(first) + len(others) :]]


def _options(command: Any) -> dict[str, Any]:
    named = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
    return dict.fromkeys(HELP) | {name: option for name, option in named.items() if name.startswith("-")}


def _takes_value(option: Any) -> bool:
    return option is not None and not option.is_flag and not getattr(option, "count", False)
