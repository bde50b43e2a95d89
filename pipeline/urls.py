"""URLs as people see them."""

from __future__ import annotations

import re

MAX_URL_CHARS = 8192
_ENDS_AUTHORITY = re.compile(r"[/?#]")
_HOST = re.compile(r"(?:[^\s@:\[\]]*|\[[^\]@]*\])(?::\d*)?")


def shown_url(url: str) -> str:
    """A URL for messages and rows: without user, query and fragment, where secrets are.

    Where the authority is not a host, a ``/``, ``?`` or ``#`` of a password ended it too soon: all up to the last ``@``
    is the user.
    """
    scheme, separator, address = url.partition("://")
    authority = _ENDS_AUTHORITY.split(address, maxsplit=1)[0]
    if "@" in address and not _HOST.fullmatch(authority):
        user = authority if _HOST.fullmatch(authority.rpartition("@")[2]) else address
        address = address[user.rindex("@") + 1 :]
    return f"{scheme}{separator}{address.split('?', 1)[0].split('#', 1)[0]}"[:200]
