"""Parses a label filter: ``name`` or ``name=value``."""

from pipeline.errors import InputError, Problem
from pipeline.names import check_labels, split_label


def label_of(text: str) -> tuple[str, str | None]:
    """Return the name and value of a label; of a name alone the value is None. Raises InputError."""
    try:
        name, value = split_label(text)
        check_labels({name: value or ""})
    except ValueError as error:
        raise InputError([Problem(str(error), field="--label")]) from None
    return name, value
