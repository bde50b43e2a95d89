"""Suggests the known name nearest to an unknown one, for error messages."""

from collections.abc import Iterable
from difflib import get_close_matches

MAX_CHARS = 64
"""A longer name is nobody's typing error, and comparing it takes time by the square of its length."""


def nearest(name: object, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return at most ``count`` known names that are like this one; case, blanks and hyphens do not count."""
    text = str(name) if isinstance(name, str | int | float) and not isinstance(name, bool) else ""
    if not text or len(text) > MAX_CHARS:
        return []
    plain = {_plain(each): each for each in known}
    return [plain[each] for each in get_close_matches(_plain(text), plain, n=count, cutoff=cutoff)]


def did_you_mean(name: object, known: Iterable[str], count: int = 1) -> str:
    """``"did you mean 'fps'? "``, or nothing."""
    names = nearest(name, known, count)
    return f"did you mean {' or '.join(map(repr, names))}? " if names else ""


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")
