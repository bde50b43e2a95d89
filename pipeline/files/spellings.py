"""Finds a file whose name uses another Unicode normal form (NFC or NFD) of the same characters.

Phones and macOS write ``é`` as two characters, most keyboards as one; for Linux these are two names.
"""

import os
import unicodedata
from pathlib import Path


def existing_spelling(path: Path) -> Path:
    """The path under which the file exists; as it was given where it does, and where no spelling of it does.

    Each part of the path is looked at by itself: a folder may be spelled in one way and the file in another.
    Raises OSError for a name that is too long, and ValueError for a NUL.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    current = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        spellings = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        existing = next((name for name in spellings if os.path.lexists(current / name)), None)
        if existing is None:
            return path
        current /= existing
    return current
