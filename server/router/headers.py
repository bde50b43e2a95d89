"""Headers on their way through: what belongs to one connection stays there, and the client's address is added.

Hop-by-hop headers are those of RFC 9110, section 7.6.1.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from server.router.config import Network

Headers = list[tuple[bytes, bytes]]
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te"}
    | {b"trailer", b"transfer-encoding", b"upgrade"}
)
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"})


def end_to_end(headers: Iterable[tuple[bytes, bytes]], without: Iterable[bytes] = ()) -> Headers:
    """Return the headers without those of one connection alone, also without those that ``Connection`` names."""
    pairs = [(name.lower(), value) for name, value in headers]
    named = {part.strip().lower() for name, value in pairs if name == b"connection" for part in value.split(b",")}
    dropped = _HOP_BY_HOP | named | set(without)
    return [(name, value) for name, value in pairs if name not in dropped]


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
