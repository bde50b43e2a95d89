"""Headers on their way through: what belongs to one connection stays there, and the client's address is added.

Hop-by-hop headers are those of RFC 9110, section 7.6.1.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from server.router.field_checks import Network

Headers = list[tuple[bytes, bytes]]
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te"}
    | {b"trailer", b"transfer-encoding", b"upgrade"}
)
_NEEDED = frozenset({b"host", b"content-length", b"via"})
"""Headers that are never of one connection alone, whatever ``Connection`` names."""
LOOP_STATUS = 508
"""Loop Detected (RFC 5842): a request came back to the router that had sent it."""
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"})


def end_to_end(headers: Iterable[tuple[bytes, bytes]], without: Iterable[bytes] = ()) -> Headers:
    """Return the headers without those of one connection alone, also without those that ``Connection`` names."""
    pairs = [(name.lower(), value) for name, value in headers]
    named = {part.strip().lower() for name, value in pairs if name == b"connection" for part in value.split(b",")}
    dropped = _HOP_BY_HOP | (named - _NEEDED) | set(without)
    return [(name, value) for name, value in pairs if name not in dropped]


def with_via(headers: Headers, identity: bytes) -> Headers:
    """Return the headers with this router's entry at the end of ``Via`` (RFC 9110, section 7.6.3)."""
    before = [value for name, value in headers if name == b"via"]
    kept = [(name, value) for name, value in headers if name != b"via"]
    return [*kept, (b"via", b", ".join([*before, b"1.1 " + identity]))]


def came_through(headers: Iterable[tuple[bytes, bytes]], identity: bytes) -> bool:
    """Return whether the router of this identity has sent the request already: it has come in a circle."""
    entries = (entry.split() for name, value in headers if name == b"via" for entry in value.split(b","))
    return any(identity in entry for entry in entries)


def with_host(headers: Headers, url: str) -> Headers:
    """Return the headers with a ``Host``; that of a client is kept, and HTTP/1.0 need not have one."""
    if any(name == b"host" for name, _ in headers):
        return headers
    return [(b"host", url.partition("://")[2].encode()), *headers]


def forwarded(headers: Headers, scope: Mapping[str, Any], trusted: Sequence[Network]) -> Headers:
    """Return the headers with ``X-Forwarded-For``, ``-Host`` and ``-Proto``.

    Those that came along are kept where a trusted proxy sent them, and dropped where anybody else did.
    """
    client = scope["client"][0] if scope.get("client") else ""
    secure = scope["scheme"] in ("https", "wss")
    host = next((value for name, value in headers if name == b"host"), b"")
    before = [(name, value) for name, value in headers if name in _FORWARDED] if _is_trusted(client, trusted) else []
    given = dict(before)
    chain = b", ".join([value for name, value in before if name == b"x-forwarded-for"] + [client.encode()])
    kept = [(name, value) for name, value in headers if name not in _FORWARDED]
    return [
        *kept,
        (b"x-forwarded-for", chain),
        (b"x-forwarded-host", given.get(b"x-forwarded-host", host)),
        (b"x-forwarded-proto", given.get(b"x-forwarded-proto", b"https" if secure else b"http")),
    ]


def _is_trusted(client: str, trusted: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in trusted)
