"""Names a command line's options as a program or a request calls them: ``max_cost`` for ``--max-cost``."""

import re
from dataclasses import replace

from pipeline.errors import InputError, Problem

_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*[a-z])")


def without_hyphens(text: str) -> str:
    """Return a text with its options called as arguments and fields are."""
    return _OPTION.sub(lambda option: option[1].replace("-", "_"), text)


def as_arguments(error: InputError) -> InputError:
    """Return the same mistakes in the words of a Python program. Those of a prompt file's lines keep the line's."""
    return InputError([problem if problem.line is not None else _argument(problem) for problem in error.problems])


def _argument(problem: Problem) -> Problem:
    field = None if problem.field is None else without_hyphens(problem.field)
    return replace(problem, field=field, message=without_hyphens(problem.message))
