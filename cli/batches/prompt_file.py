"""Reading a prompt file under the command line's options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import BatchChoices, FieldOptions

if TYPE_CHECKING:
    from pipeline.prompts import Submission
    from pipeline.settings import Settings


def read(file: Path, fields: FieldOptions, choices: BatchChoices, settings: Settings) -> Submission:
    """Parse the file under the command line's options. Raises InputError with every mistake."""
    from pipeline.prompts import parse

    choices.require_possible()
    return parse(file, overrides=fields.overrides(), settings=settings)
