"""Reading a prompt file under the command line's options."""

from pathlib import Path

from cli.options import BatchChoices, FieldOptions
from pipeline.errors import InputError, Problem
from pipeline.prompts import Submission, parse
from pipeline.settings import Settings


def read(file: Path, fields: FieldOptions, choices: BatchChoices, settings: Settings) -> Submission:
    """Parse the file under the command line's options. Raises InputError with every mistake."""
    if choices.key is not None and choices.again:
        raise InputError([Problem("--key and --again exclude each other: a key names one batch for ever")])
    if choices.key is not None and not 0 < len(choices.key) <= 128:
        raise InputError([Problem(f"has {len(choices.key)} characters; 1 to 128 are allowed", field="--key")])
    return parse(file, overrides=fields.overrides(), settings=settings)
