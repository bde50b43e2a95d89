"""URLs as people see them."""

from __future__ import annotations

MAX_URL_CHARS = 8192


def shown_url(url: str) -> str:
    """A URL for messages and rows: without user, query and fragment, where secrets are."""
    bare = url.split("?", 1)[0].split("#", 1)[0]
    scheme, separator, rest = bare.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"[:200]
