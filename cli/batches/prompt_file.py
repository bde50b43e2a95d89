"""Reads what is to be made, with the command line's options: a prompt file, standard input, or one prompt."""

import json
import os
import shlex
import sys
from pathlib import Path

from cli import output
from cli.options import BatchChoices, FieldOptions
from pipeline.errors import InputError, Problem
from pipeline.files.object_names import slug
from pipeline.prompts import Submission, parse, parse_bytes
from pipeline.prompts.formats.lines import MAX_FILE_BYTES
from pipeline.prompts.formats.readers import READERS
from pipeline.settings import Settings
from service import submission
from service.submission import Prepared

STDIN = "-"


def read(source: str | Path, fields: FieldOptions, settings: Settings) -> Submission:
    """Parse the file, what standard input brings, or the prompt itself, under the command line's options.

    Raises:
        InputError: with every mistake.
    """
    overrides = fields.overrides()
    source = os.fspath(source)
    if source == STDIN:
        data = _from_stdin()
        name = "stdin.jsonl" if data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") else "stdin.txt"
        return parse_bytes(data, name, overrides=overrides, settings=settings)
    if is_prompt(source):
        record = json.dumps({"prompt": source}).encode()
        return parse_bytes(record, "prompt.jsonl", overrides=overrides, settings=settings)
    _require_file(source)
    return parse(Path(source), overrides=overrides, settings=settings)


def prepare(source: str, fields: FieldOptions, choices: BatchChoices, settings: Settings) -> Prepared:
    """Read what is to be made, and check what was chosen for its batch. Raises InputError with every mistake."""
    choices.require_possible()
    jobs = read(source, fields, settings)
    return submission.prepare(jobs, choices, settings, has_name=source != STDIN and not is_prompt(source))


def is_prompt(source: str) -> bool:
    """Return whether it is a prompt: several words that are no file's name."""
    if len(source.split()) < 2 or source.lower().endswith(tuple(READERS)):
        return False
    return not os.path.exists(source)  # noqa: PTH110 - Path.exists() fails where the prompt is too long for a name


def name_of(source: str) -> str | None:
    """Return the name of a batch of one prompt; None where a file gives it."""
    return slug(source) if is_prompt(source) else None


def _require_file(source: str) -> None:
    """Raises InputError: one word that names nothing may be meant as a prompt."""
    if not os.path.lexists(source) and not Path(source).suffix and os.sep not in source:
        command = f"echo {shlex.quote(source)} | vgen run -"
        message = f"this file does not exist; to submit a prompt of one word, use standard input: {command}"
        raise InputError([Problem(message, source)])


def _from_stdin() -> bytes:
    """Raises InputError: there is nothing, or too much."""
    if sys.stdin.isatty():
        output.notice("reading prompts, one a line; Ctrl-D ends them")
    data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if not data.strip():
        raise InputError([Problem("standard input brought no prompt", STDIN)])
    return data
