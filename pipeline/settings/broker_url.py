"""The broker's address: what it may be, and what it says of TLS.

``redis://[[USER]:PASSWORD@]HOST[:PORT][/NUMBER]``, ``rediss://`` for Redis over TLS, ``redis+socket:///PATH``, and
``amqp://`` or ``amqps://`` for RabbitMQ; several of one kind, separated by semicolons, stand in for each other.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

REDIS, AMQP = "redis", "amqp"
_KINDS = {
    **dict.fromkeys(("redis", "rediss", "redis+socket"), REDIS),
    **dict.fromkeys(("amqp", "amqps", "pyamqp"), AMQP),
}
_TLS_SCHEMES = ("rediss", "amqps")
_RULE = "expected redis://…, rediss://…, amqp://… or amqps://…"
_ESCAPE = "in a user or password write / as %2F, ? as %3F, # as %23, @ as %40 and ; as %3B"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}")
_CERT_REQS = {
    **{"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE},
    **{"cert_required": ssl.CERT_REQUIRED, "cert_optional": ssl.CERT_OPTIONAL, "cert_none": ssl.CERT_NONE},
}
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OPTIONS = ("ssl_cert_reqs", "ssl_check_hostname", *_FILES)


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """An address that is in order."""

    url: str
    """The URL without its options of TLS."""
    kind: str
    """``redis`` or ``amqp``."""
    addresses: tuple[tuple[str, int], ...]
    """Host and port of each; none for a socket file."""
    tls: bool = False
    verify: ssl.VerifyMode = ssl.CERT_REQUIRED
    check_hostname: bool = True
    files: Mapping[str, str] = field(default_factory=dict)
    """Paths by the names of the options: ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``."""


def parse_broker_url(url: str) -> BrokerUrl:
    """Read the address.

    Raises:
        ValueError: it breaks a rule. The message holds nothing of it but its scheme and the names of its options.
    """
    parts = [_split(node) for node in url.split(";")]
    kinds = {_KINDS[part.scheme] for part in parts}
    if len(kinds) > 1:
        raise ValueError("addresses that stand in for each other must be of one kind, Redis or AMQP")
    tls = {_tls_of(part) for part in parts}
    if len(tls) > 1:
        raise ValueError("alternative addresses must all use TLS or all not use it")
    encrypted, options = tls.pop()
    return BrokerUrl(
        url=";".join(_bare(part) for part in parts),
        kind=kinds.pop(),
        addresses=tuple(_address(part) for part in parts if part.scheme != "redis+socket"),
        tls=encrypted,
        **_checked(dict(options)),
    )


def _split(url: str) -> SplitResult:
    scheme, separator, _ = url.partition("://")
    scheme = scheme.strip().lower()
    if not separator or not _SCHEME.fullmatch(scheme):
        raise ValueError(f"not an address of a broker: {_RULE}")
    if scheme not in _KINDS:
        raise ValueError(f"{scheme}://… is not a broker that vgen works with: {_RULE}")
    try:
        part = urlsplit(url.strip())
        _ = part.port
    except ValueError:  # whose message would show what follows the host: often a password
        raise ValueError(f"{scheme}://…: its host or port cannot be read; {_ESCAPE}") from None
    if scheme == "redis+socket":
        if part.netloc or not part.path.strip("/"):
            raise ValueError(f"{scheme}://…: expected redis+socket:///PATH")
    elif _KINDS[scheme] == REDIS and not _is_number(part.path.strip("/")):
        raise ValueError(f"{scheme}://…: after the host stands the number of a database, such as /0; {_ESCAPE}")
    if part.fragment or "@" in part.path + part.query:
        raise ValueError(f"{scheme}://…: neither # nor @ may follow the host; {_ESCAPE}")
    return part


def _is_number(text: str) -> bool:
    return text == "" or (text.isascii() and text.isdecimal())


def _address(part: SplitResult) -> tuple[str, int]:
    tls, _ = _tls_of(part)
    amqp_port = 5671 if tls else 5672
    return unquote(part.hostname or "localhost"), part.port or (6379 if _KINDS[part.scheme] == REDIS else amqp_port)


def _tls_of(part: SplitResult) -> tuple[bool, frozenset[tuple[str, str]]]:
    """Return whether TLS is asked for, and its options."""
    options = frozenset((name, value) for name, value in _query(part) if name.startswith("ssl_"))
    return part.scheme in _TLS_SCHEMES or bool(options), options


def _query(part: SplitResult) -> list[tuple[str, str]]:
    return parse_qsl(part.query, keep_blank_values=True)


def _bare(part: SplitResult) -> str:
    query = urlencode([(name, value) for name, value in _query(part) if not name.startswith("ssl_")])
    return f"{part.scheme}://{part.netloc}{part.path}" + (f"?{query}" if query else "")


def _checked(options: Mapping[str, str]) -> dict[str, Any]:
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise ValueError(f"{unknown[0]} is not an option of TLS: use {', '.join(_OPTIONS)}")
    verify = options.get("ssl_cert_reqs", "required").lower()
    if verify not in _CERT_REQS:
        raise ValueError(f"ssl_cert_reqs {verify!r} must be required, optional or none")
    check = options.get("ssl_check_hostname", "true").lower()
    if check not in ("true", "false"):
        raise ValueError(f"ssl_check_hostname {check!r} must be true or false")
    mode = _CERT_REQS[verify]
    files = {name: options[name] for name in _FILES if name in options}
    return {"verify": mode, "check_hostname": check == "true" and mode is not ssl.CERT_NONE, "files": files}
