"""What the router is told: its address, the replicas behind it, and how it judges them.

router:
  replicas:
    - url: http://10.0.0.1:8000
    - url: http://10.0.0.2:8000
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pipeline.errors import InputError, Problem
from pipeline.files.pipes import read_file_or_pipe
from pipeline.files.yaml_lines import Path as Place
from pipeline.files.yaml_lines import parse_yaml_with_lines
from pipeline.files.yaml_reader import YamlError
from pipeline.nearest import did_you_mean, nearest
from pipeline.prompts.numbers import show
from server.router import field_checks

MAX_FILE_BYTES = 1024 * 1024
MEBIBYTE = 1024 * 1024
MIN_KEY_CHARS = 16
_OPTIONAL = ("name", "admin_key_file")
"""Fields that may be None: in a file, left out."""


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

    url: Annotated[str, field_checks.url]
    """``http://HOST:PORT`` or ``https://…``; WebSockets go to the same address."""
    name: Annotated[str | None, field_checks.name] = None
    """What it is called in the status, the metrics and admin requests; None: ``replica-N``, by its place."""
    primary: Annotated[bool, field_checks.truth] = False
    """While it is healthy, every new session goes to it; the others stand by."""
    weight: Annotated[float, field_checks.positive] = 1.0
    """A replica of weight 2 gets twice the sessions of one of weight 1."""

    def __post_init__(self) -> None:
        _checked(self)


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """All that the router is told. Durations are seconds. Raises ValueError: a value breaks its rule."""

    replicas: tuple[ReplicaEndpoint, ...] = ()
    host: Annotated[str, field_checks.host] = "0.0.0.0"
    port: Annotated[int, field_checks.port] = 9000
    """0: any free one."""
    health_check_path: Annotated[str, field_checks.health_path] = "/health"
    health_check_interval_seconds: Annotated[float, field_checks.positive] = 5.0
    health_check_timeout_seconds: Annotated[float, field_checks.positive] = 2.0
    failure_threshold: Annotated[int, field_checks.count] = 3
    """A healthy replica is unhealthy after so many failed checks, one after the other."""
    recovery_threshold: Annotated[int, field_checks.count] = 2
    """An unhealthy one is healthy again after so many that succeed."""
    drain_seconds: Annotated[float, field_checks.not_negative] = 60.0
    """A stopping router lets running sessions and requests go on for so long."""
    connect_timeout_seconds: Annotated[float, field_checks.positive] = 5.0
    """A replica has so long to take a connection; then another is tried."""
    answer_timeout_seconds: Annotated[float, field_checks.positive] = 660.0
    """A replica has so long to begin its answer to a request, and between two parts of it."""
    stall_timeout_seconds: Annotated[float, field_checks.positive] = 60.0
    """A client that takes nothing, or a replica that answers no ping, for so long has its session ended."""
    max_message_bytes: Annotated[int, field_checks.count] = 64 * MEBIBYTE
    """The longest message of a WebSocket, either way; a longer one closes it with 1009."""
    trusted_proxies: Annotated[tuple[field_checks.Network, ...], field_checks.networks] = ()
    """Proxies before the router whose ``X-Forwarded-*`` it believes."""
    admin_key_file: Annotated[Path | None, field_checks.key_file] = None
    """A file with the key of admin requests; None: there are no admin requests."""

    def __post_init__(self) -> None:
        named = (replace(each, name=each.name or f"replica-{place}") for place, each in enumerate(self.replicas, 1))
        object.__setattr__(self, "replicas", tuple(named))
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
    names = [each.name or f"replica-{place}" for place, each in enumerate(replicas, 1)]
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


def read_config(path: str | Path, *, fixed: Mapping[str, Any] | None = None) -> RouterConfig:
    """Read a file; a relative ``admin_key_file`` lies beside it.

    ``fixed`` are fields of `router` and the values that they had when the router was started: they stay.

    Raises:
        InputError: with every mistake: the file, the line, the field, its value and the rule that it breaks.
    """
    content = read_file_or_pipe(path, what="the configuration", limit_bytes=MAX_FILE_BYTES)
    reader = _Reader(str(path), fixed or {})
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

    def __init__(self, file: str, fixed: Mapping[str, Any]) -> None:
        self.file = file
        self.fixed = fixed
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
        config = RouterConfig(replicas=replicas, **values)
        for name, before in self.fixed.items():
            if (given := getattr(config, name)) != before:
                rule = (
                    f"{show(given)} was {show(before)} when the router was started: start it anew to listen elsewhere"
                )
                self._problem(("router", name), rule)
        return None if self.problems else config

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
