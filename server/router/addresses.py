"""Where a request goes: to an address that the configuration names, and to the path that the client asked for."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from server.router.field_checks import DEFAULT_PORTS


def origin_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host (an IPv6 address without brackets) and port of a replica's URL."""
    parts = urlsplit(url)
    assert parts.hostname is not None, url
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]


def target_of(scope: Mapping[str, Any]) -> bytes | None:
    """Return path and query as the client wrote them; None: it asked for something else, such as another host's URL."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    if not path.startswith(b"/"):
        return None
    return path + b"?" + query if query else path
