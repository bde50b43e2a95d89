"""The rule of each field of the router's configuration: a check returns the value that is used.

Every check raises ValueError with the rule, as the end of a sentence that begins with the field and the value.
"""

import contextlib
import ipaddress
import math
import re
from pathlib import Path
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
DEFAULT_PORTS = {"http": 80, "https": 443}


def text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be text")
    return value


def truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    with contextlib.suppress(OverflowError):  # an integer that no float holds
        if math.isfinite(given := float(value)):
            return given
    raise ValueError("must be a number that is finite")


def positive(value: object) -> float:
    given = number(value)
    if given <= 0:
        raise ValueError("must be greater than 0")
    return given


def not_negative(value: object) -> float:
    given = number(value)
    if given < 0:
        raise ValueError("must be 0 or more")
    return given


def whole(value: object, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    if value < least or (most is not None and value > most):
        raise ValueError(f"must be {least} or more" if most is None else f"must be from {least} to {most}")
    return value


def count(value: object) -> int:
    return whole(value, 1)


def port(value: object) -> int:
    return whole(value, 0, 65535)


def host(value: object) -> str:
    given = text(value)
    if not re.fullmatch(r"[A-Za-z0-9._:%-]{1,255}", given):
        raise ValueError("must be a host name or an IP address, without a scheme and a port")
    return given


def health_path(value: object) -> str:
    given = text(value)
    if not re.fullmatch(r"/[!-~]*", given) or "#" in given:
        raise ValueError("must be a path that begins with /, such as /health")
    return given


def url(value: object) -> str:
    """The replica's address as ``scheme://host[:port]``, alike for every spelling: in lower case, an IPv6 address in
    its short form, without the scheme's own port."""
    rule = "must be http://HOST[:PORT] or https://HOST[:PORT], and nothing else"
    given = text(value)
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError:
        raise ValueError(rule) from None
    host = parts.netloc.rpartition("@")[2].removesuffix(f":{port}").lower()
    if "@" in parts.netloc:
        raise ValueError(f"holds a user or a password: {rule}")
    if parts.scheme not in DEFAULT_PORTS or not _HOST.fullmatch(host) or port == 0:
        raise ValueError(rule)
    if parts.path not in ("", "/") or parts.query or parts.fragment or given.endswith(("?", "#")):
        raise ValueError(f"has a path, a query or a fragment: {rule}")
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise ValueError(f"{host} is not an IPv6 address: {rule}") from None
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, DEFAULT_PORTS[parts.scheme]) else "")


def name(value: object) -> str:
    given = text(value)
    if not _NAME.fullmatch(given):
        raise ValueError("must be of letters, digits, ., _ and -, at most 100")
    return given


def key_file(value: object) -> Path:
    return Path(value) if isinstance(value, Path) else Path(text(value))


def networks(value: object) -> tuple[Network, ...]:
    rule = "must be a list of IP addresses and networks, such as 10.0.0.0/8"
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ValueError(rule)
    try:
        return tuple(ipaddress.ip_network(each if isinstance(each, str) else str(each)) for each in value)
    except ValueError:
        raise ValueError(rule) from None
