"""What the router is told: its address, the replicas behind it, and how it judges them.

router:
  replicas:
    - url: http://10.0.0.1:8000
    - url: http://10.0.0.2:8000
"""

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pipeline.errors import InputError, Problem
from pipeline.files.pipes import read_file_or_pipe
from pipeline.files.yaml_lines import Path as Place
from pipeline.files.yaml_lines import parse_yaml_with_lines
from pipeline.files.yaml_reader import YamlError
from pipeline.nearest import did_you_mean, nearest
from pipeline.prompts.numbers import show

MAX_FILE_BYTES = 1024 * 1024
MEBIBYTE = 1024 * 1024
MIN_KEY_CHARS = 16
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\[\]-]{0,99}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
_OPTIONAL = ("name", "admin_key_file")
"""Fields that may be None: in a file, left out."""


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be text")
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("must be a number")
    return float(value)


def _positive(value: object) -> float:
    number = _number(value)
    if number <= 0:
        raise ValueError("must be greater than 0")
    return number


def _not_negative(value: object) -> float:
    number = _number(value)
    if number < 0:
        raise ValueError("must be 0 or more")
    return number


def _whole(value: object, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    if value < least or (most is not None and value > most):
        raise ValueError(f"must be {least} or more" if most is None else f"must be from {least} to {most}")
    return value


def _count(value: object) -> int:
    return _whole(value, 1)


def _port(value: object) -> int:
    return _whole(value, 0, 65535)


def _host(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9._:%-]{1,255}", text):
        raise ValueError("must be a host name or an IP address, without a scheme and a port")
    return text


def _health_path(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"/[!-~]*", text) or "#" in text:
        raise ValueError("must be a path that begins with /, such as /health")
    return text


def _url(value: object) -> str:
    """The replica's address as ``scheme://host[:port]``, in lower case."""
    rule = "must be http://HOST[:PORT] or https://HOST[:PORT], and nothing else"
    text = _text(value)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(rule) from None
    host = parts.netloc.rpartition("@")[2].removesuffix(f":{port}")
    if "@" in parts.netloc:
        raise ValueError(f"holds a user or a password: {rule}")
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or port == 0:
        raise ValueError(rule)
    if parts.path not in ("", "/") or parts.query or parts.fragment or text.endswith(("?", "#")):
        raise ValueError(f"has a path, a query or a fragment: {rule}")
    return f"{parts.scheme}://{host.lower()}" + (f":{port}" if port is not None else "")


def _name(value: object) -> str:
    text = _text(value)
    if not _NAME.fullmatch(text):
        raise ValueError("must be of letters, digits, ., _ and -, at most 100")
    return text


def _key_file(value: object) -> Path:
    return Path(value) if isinstance(value, Path) else Path(_text(value))


def _networks(value: object) -> tuple[Network, ...]:
    rule = "must be a list of IP addresses and networks, such as 10.0.0.0/8"
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ValueError(rule)
    try:
        return tuple(ipaddress.ip_network(each if isinstance(each, str) else str(each)) for each in value)
    except ValueError:
        raise ValueError(rule) from None


def _checks_of(model: type) -> dict[str, Callable[[object], Any]]:
    """The check of each field of a dataclass that is annotated with one."""
    return {item.name: item.type.__metadata__[0] for item in fields(model) if hasattr(item.type, "__metadata__")}


def _checked(instance: object) -> None:
    """Check every field of a value that is being made. Raises ValueError: the first mistake, with the field's name."""
    for name, check in _checks_of(type(instance)).items():
        value = getattr(instance, name)
        if value is None and name in _OPTIONAL:
            continue
        try:
            object.__setattr__(instance, name, check(value))
        except ValueError as error:
            raise ValueError(f"{name}: {show(value)} {error}") from None


@dataclass(frozen=True, slots=True)
class ReplicaEndpoint:
    """One server that the router sends clients to. Raises ValueError: a value breaks its rule."""

    url: Annotated[str, _url]
    """``http://HOST:PORT`` or ``https://…``; WebSockets go to the same address."""
    name: Annotated[str | None, _name] = None
    """What it is called in the status and in admin requests; None: host and port."""
    primary: Annotated[bool, _truth] = False
    """While it is healthy, every new session goes to it; the others stand by."""
    weight: Annotated[float, _positive] = 1.0
    """A replica of weight 2 gets twice the sessions of one of weight 1."""

    def __post_init__(self) -> None:
        _checked(self)

    @property
    def label(self) -> str:
        return self.name or self.url.partition("://")[2]


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """All that the router is told. Durations are seconds. Raises ValueError: a value breaks its rule."""

    replicas: tuple[ReplicaEndpoint, ...] = ()
    host: Annotated[str, _host] = "0.0.0.0"
    port: Annotated[int, _port] = 9000
    """0: any free one."""
    health_check_path: Annotated[str, _health_path] = "/health"
    health_check_interval_seconds: Annotated[float, _positive] = 5.0
    health_check_timeout_seconds: Annotated[float, _positive] = 2.0
    failure_threshold: Annotated[int, _count] = 3
    """A healthy replica is unhealthy after so many failed checks, one after the other."""
    recovery_threshold: Annotated[int, _count] = 2
    """An unhealthy one is healthy again after so many that succeed."""
    drain_seconds: Annotated[float, _not_negative] = 60.0
    """A stopping router lets running sessions and requests go on for so long."""
    connect_timeout_seconds: Annotated[float, _positive] = 5.0
    """A replica has so long to take a connection; then another is tried."""
    answer_timeout_seconds: Annotated[float, _positive] = 660.0
    """A replica has so long to begin its answer to a request, and between two parts of it."""
    stall_timeout_seconds: Annotated[float, _positive] = 60.0
    """A client that takes nothing, or a replica that answers no ping, for so long has its session ended."""
    max_message_bytes: Annotated[int, _count] = 64 * MEBIBYTE
    """The longest message of a WebSocket, either way; a longer one closes it with 1009."""
    trusted_proxies: Annotated[tuple[Network, ...], _networks] = ()
    """Proxies before the router whose ``X-Forwarded-*`` it believes."""
    admin_key_file: Annotated[Path | None, _key_file] = None
    """A file with the key of admin requests; None: there are no admin requests."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "replicas", tuple(self.replicas))
        _checked(self)
        for _, message in contradictions(self.replicas):
            raise ValueError(f"replicas: {message}")


def contradictions(replicas: tuple[ReplicaEndpoint, ...]) -> list[tuple[int | None, str]]:
    """Return what is wrong with the list as a whole, each with the replica's place (from 0) where it is one's fault."""
    if not replicas:
        return [(None, "must name at least one replica: `- url: http://HOST:PORT`")]
    primaries = [place for place, each in enumerate(replicas) if each.primary]
    mistakes: list[tuple[int | None, str]] = [
        (place, "primary: at most one replica can be primary") for place in primaries[1:]
    ]
    urls = [each.url for each in replicas]
    names = [each.label for each in replicas]
    mistakes += [(place, f"url: {url!r} is given twice") for place, url in enumerate(urls) if url in urls[:place]]
    mistakes += [
        (place, f"name: {name!r} is given twice")
        for place, name in enumerate(names)
        if name in names[:place] and urls[place] not in urls[:place]
    ]
    return mistakes


_HEALTH_CHECK = {
    "path": "health_check_path",
    "interval_seconds": "health_check_interval_seconds",
    "timeout_seconds": "health_check_timeout_seconds",
    "failure_threshold": "failure_threshold",
    "recovery_threshold": "recovery_threshold",
}
"""The keys of a file's ``health_check``, and the fields that they set."""
_ROUTER = tuple(item.name for item in fields(RouterConfig) if item.name not in _HEALTH_CHECK.values())
"""The keys of a file's ``router`` besides ``health_check``."""


def read_config(path: str | Path) -> RouterConfig:
    """Read a file; a relative ``admin_key_file`` lies beside it.

    Raises:
        InputError: with every mistake: the file, the line, the field, its value and the rule that it breaks.
    """
    content = read_file_or_pipe(path, what="the configuration", limit_bytes=MAX_FILE_BYTES)
    reader = _Reader(str(path))
    try:
        data, reader.lines = parse_yaml_with_lines(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError([Problem("is not UTF-8", str(path))]) from None
    except YamlError as error:
        raise InputError([Problem(f"the configuration cannot be read: {error}", str(path), error.line)]) from None
    config = reader.config(data, Path(path).absolute().parent)
    if config is None:
        raise InputError(reader.problems)
    return config


class _Reader:
    """Reads one file's value, and gathers its mistakes."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: Mapping[Place, int] = {}
        self.problems: list[Problem] = []

    def config(self, data: Any, folder: Path) -> RouterConfig | None:
        """Return the configuration; None: ``problems`` says why not."""
        known = {*_ROUTER, "health_check"}
        if not isinstance(data, dict) or "router" not in data:
            near = nearest("router", data) if isinstance(data, dict) else []
            if near:
                self._unknown(data, ("router",), ())
            else:
                self._problem((), "the file has no mapping `router:` at its top; docs/router.md shows one")
            return None
        self._unknown(data, ("router",), ())
        if not isinstance(data["router"], dict):
            self._table(data["router"], ("router",), known)
            return None
        table = self._table(data["router"], ("router",), known)
        values = self._values(table, ("router",), {name: name for name in _ROUTER}, RouterConfig)
        checks = self._table(table.get("health_check", {}), ("router", "health_check"), set(_HEALTH_CHECK))
        values |= self._values(checks, ("router", "health_check"), _HEALTH_CHECK, RouterConfig)
        replicas = self._replicas(table.get("replicas", []))
        if self.problems:
            return None
        if "admin_key_file" in values:
            values["admin_key_file"] = folder / values["admin_key_file"]
        return RouterConfig(replicas=replicas, **values)

    def _replicas(self, data: Any) -> tuple[ReplicaEndpoint, ...]:
        at: Place = ("router", "replicas")
        if not isinstance(data, list):
            self._problem(at, f"{show(data)} must be a list of replicas, each `- url: http://HOST:PORT`")
            return ()
        before = len(self.problems)
        replicas = tuple(each for place, item in enumerate(data) for each in self._replica(item, (*at, place)))
        if len(self.problems) == before:
            for place, message in contradictions(replicas):
                name, _, rule = message.partition(": ") if place is not None else ("", "", message)
                where = (
                    at if place is None else (*at, place, name) if (*at, place, name) in self.lines else (*at, place)
                )
                self._problem(where, rule)
        return replicas

    def _replica(self, data: Any, at: Place) -> list[ReplicaEndpoint]:
        if isinstance(data, str):
            data = {"url": data}
        names = [item.name for item in fields(ReplicaEndpoint)]
        before = len(self.problems)
        table = self._table(data, at, set(names))
        values = self._values(table, at, {name: name for name in names}, ReplicaEndpoint)
        if "url" not in table and len(self.problems) == before:
            self._problem((*at, "url"), "is missing")
        return [] if len(self.problems) > before else [ReplicaEndpoint(**values)]

    def _values(self, table: Mapping[str, Any], at: Place, names: Mapping[str, str], of: Any) -> dict[str, Any]:
        """The checked values of a table, by the names of the fields of ``of``."""
        checks = _checks_of(of)
        values = {}
        for key, name in names.items():
            if key not in table or name not in checks:
                continue
            try:
                values[name] = checks[name](table[key])
            except ValueError as error:
                self._problem((*at, key), f"{show(table[key])} {error}")
        return values

    def _table(self, data: Any, at: Place, known: set[str]) -> dict[str, Any]:
        if not isinstance(data, dict):
            self._problem(at, f"{show(data)} must be a mapping of keys to values")
            return {}
        self._unknown(data, sorted(known), at)
        return data

    def _unknown(self, data: Mapping[str, Any], known: Any, at: Place) -> None:
        for name in data:
            if name not in known:
                hint = did_you_mean(name, known) or f"the keys are: {', '.join(known)}"
                self._problem((*at, name), f"there is no such key: {hint}".rstrip())

    def _problem(self, at: Place, message: str) -> None:
        line = next((self.lines[at[:end]] for end in range(len(at), -1, -1) if at[:end] in self.lines), None)
        self.problems.append(Problem(message, self.file, line, _dotted(at) or None))


def _dotted(at: Place) -> str:
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def read_admin_key(path: Path) -> str:
    """Return the key that a file holds, in its first line.

    Raises:
        InputError: the file cannot be read, or what it holds is too short for a key.
    """
    field_name = "router.admin_key_file"
    try:
        content = read_file_or_pipe(path, what="the key's file", limit_bytes=4096)
    except InputError as error:
        raise InputError([Problem(item.message, str(path), field=field_name) for item in error.problems]) from None
    key = content.decode("utf-8", "replace").strip()
    if not re.fullmatch(rf"[!-~]{{{MIN_KEY_CHARS},}}", key):
        rule = f"must hold one line of at least {MIN_KEY_CHARS} printable ASCII characters without blanks"
        raise InputError([Problem(rule, str(path), field=field_name)])
    return key
