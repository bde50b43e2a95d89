"""Prompts as a program has them, as the prompt file that they stand for."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.files.pipes import read_file_or_pipe
from pipeline.prompts.formats.lines import MAX_FILE_BYTES

Prompts = str | os.PathLike[str] | Iterable[str | Mapping[str, Any]]
"""A prompt file's path (a ``Path``), its text (a ``str``), or a list of prompts and of mappings of a line's fields."""
FORMATS = ("txt", "jsonl", "csv", "yaml")


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A prompt file: its bytes, its name without the ending, its format, and where its relative paths begin."""

    data: bytes
    stem: str
    format: str
    folder: Path
    is_file: bool = False
    """Whether a file with a name of its own was given, not a text or a list."""


def prompt_file(prompts: Prompts, fields: Mapping[str, Any]) -> PromptFile:
    """The prompt file of what a program gave; ``fields`` hold for the lines of a list that do not say them.

    Raises:
        InputError: a file cannot be read or has another ending, or an item of the list is neither text nor a mapping.
    """
    if fields and isinstance(prompts, str | os.PathLike):
        problem = "is a field of lines: it goes with a list of prompts; in a file or text write `#: {} = ...`"
        raise InputError([Problem(problem.format(name), field=name) for name in fields])
    if isinstance(prompts, os.PathLike):
        return _of_file(Path(prompts))
    if isinstance(prompts, str):
        if Path(prompts).suffix.removeprefix(".") in (*FORMATS, "yml") and len(prompts.split()) == 1:
            raise InputError([Problem(f"{prompts!r} is a text, and looks like a file: give Path({prompts!r})")])
        return PromptFile(prompts.encode(), "prompts", "txt", Path.cwd())
    lines = [_line(number, item, fields) for number, item in enumerate(prompts)]
    return PromptFile("".join(lines).encode(), "prompts", "jsonl", Path.cwd())


def _of_file(path: Path) -> PromptFile:
    ending = {"yml": "yaml"}.get(path.suffix.removeprefix("."), path.suffix.removeprefix("."))
    if ending not in FORMATS:
        raise InputError([Problem(f"has the ending {path.suffix!r}: use one of .{', .'.join(FORMATS)}", str(path))])
    data = read_file_or_pipe(path, what="the prompt file", limit_bytes=MAX_FILE_BYTES)
    return PromptFile(data, path.stem, ending, path.absolute().parent, is_file=True)


def _line(number: int, item: object, defaults: Mapping[str, Any]) -> str:
    fields = {"prompt": item} if isinstance(item, str) else item
    if not isinstance(fields, Mapping):
        raise InputError([Problem(f"{item!r} is neither a prompt nor a mapping of fields", field=f"prompts[{number}]")])
    try:
        return json.dumps({**defaults, **fields}, default=_path, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError([Problem(str(error), field=f"prompts[{number}]")]) from None


def _path(value: object) -> str:
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    raise TypeError(f"{value!r} cannot be a field's value")
