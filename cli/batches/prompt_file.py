"""Reading a prompt file under the command line's options."""

from pathlib import Path

from cli.options import BatchChoices, FieldOptions
from pipeline.prompts import Submission, parse
from pipeline.settings import Settings


def read(file: Path, fields: FieldOptions, choices: BatchChoices, settings: Settings) -> Submission:
    """Parse the file under the command line's options. Raises InputError with every mistake."""
    choices.require_possible()
    return parse(file, overrides=fields.overrides(), settings=settings)
