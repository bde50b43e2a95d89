"""Gathers what every source sets: environment, ``.env`` and ``vgen.toml`` of the current folder, the user's own file.

Every source is read the same way: blanks at the ends are left out, an empty value sets nothing, ``~`` is the user's
home folder, and a name that is not a setting is reported with the nearest that is.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.errors import SettingsError
from pipeline.files.private import require_own
from pipeline.settings.files import ENV_FILE, TOML_FILE, current_folder, read_env_file, read_toml, toml_line, user_toml
from pipeline.settings.folder_trust import SettingPath, is_trusted, objection
from pipeline.settings.project import HOME_NAME

PREFIX = "VGEN_"
SEPARATED_PATHS = (("input_roots",), ("trusted_folders",))
"""Settings that hold several paths."""
ENVIRONMENT = "environment"
NOT_SETTINGS = frozenset({"VGEN_FAILPOINTS", "VGEN_FLOWER_BASIC_AUTH", "VGEN_GPU_MEMORY_BYTES"})
"""Variables that are read where they are needed; those of the preset idle and of providers' keys besides."""
_NOT_SETTINGS_PREFIXES = ("VGEN_IDLE_", "VGEN_ENHANCE_KEY_")


@dataclass
class Source:
    """The settings of one source, groups as mappings, and where each setting stands."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[SettingPath, str] = field(default_factory=dict)

    def put(self, path: SettingPath, value: object, place: str) -> None:
        """Keep a value, unless it is empty."""
        tidy = tidied(value)
        if tidy is None:
            return
        table = self.values if len(path) == 1 else self.values.setdefault(path[0], {})
        table[path[-1]] = tidy
        self.places[path] = place

    def leaves(self) -> Iterator[tuple[SettingPath, Any]]:
        for path in self.places:
            value = self.values[path[0]]
            yield path, value if len(path) == 1 else value[path[1]]

    def start_at(self, folder: Path, model: type[BaseModel]) -> None:
        """Have relative paths start at this folder, which is not the current one."""
        for path, value in list(self.leaves()):
            group = model if len(path) == 1 else model_of(model, path[0])
            if group is not None and _holds_path(path[-1], group.model_fields[path[-1]]):
                self.put(path, _started_at(folder, path, value), self.places[path])

    def drop(self, path: SettingPath) -> None:
        del self.places[path]
        if len(path) == 1:
            del self.values[path[0]]
        else:
            del self.values[path[0]][path[1]]


@dataclass
class Gathered:
    """All sources, strongest first."""

    sources: list[Source]
    notices: list[str]
    """Sentences for people: what is ignored and why, and what is misspelt."""

    def source_of(self, path: SettingPath) -> Source | None:
        return next((source for source in self.sources if path in source.places), None)

    def merged(self) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for source in reversed(self.sources):
            for name, value in source.values.items():
                if isinstance(value, dict) and isinstance(result.get(name), dict):
                    result[name] = {**result[name], **value}
                else:
                    result[name] = value
        return result


def tidied(value: object) -> Any:
    """The value without blanks at its ends; None where nothing is left of it."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, list):
        return [part for part in (tidied(item) for item in value) if part is not None]
    return value


def expanded(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with ``~`` replaced where a setting is a path, and without those that are empty."""
    result = {}
    for name, value in values.items():
        tidy = tidied(value)
        is_path = name in model.model_fields and _holds_path(name, model.model_fields[name])
        if tidy is not None:
            result[name] = _expanded(tidy) if is_path else tidy
    return result


def _expanded(value: Any) -> Any:
    if isinstance(value, str):
        return os.path.expanduser(value)  # noqa: PTH111 - a name of nobody stays, and is refused as such later
    return [_expanded(part) for part in value] if isinstance(value, list | tuple) else value


def _holds_path(name: str, info: FieldInfo) -> bool:
    return name == "storage" or info.annotation is Path or Path in get_args(info.annotation)


def _started_at(folder: Path, path: SettingPath, value: Any) -> Any:
    """The value with its relative paths below the folder; several are a list, or text with colons."""
    if not isinstance(value, str):
        return [_started_at(folder, path, item) for item in value] if isinstance(value, list) else value
    if path in SEPARATED_PATHS:
        return ":".join(_started_at(folder, (), part) for part in value.split(":") if part.strip())
    text = value.strip()
    return value if "://" in text or text.startswith(("~", "/")) else os.path.normpath(folder / text)


def variable(path: SettingPath) -> str:
    """Return a setting's name in the environment."""
    return PREFIX + "_".join(path).upper()


@cache
def known_paths(model: type[BaseModel]) -> dict[str, SettingPath]:
    """Every setting by its variable."""
    paths: dict[str, SettingPath] = {}
    for name, group in _groups(model).items():
        for path in [(name,)] if group is None else [(name, inner) for inner in group.model_fields]:
            paths[variable(path)] = path
    return paths


@cache
def _groups(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    return {
        name: info.annotation if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel) else None
        for name, info in model.model_fields.items()
    }


def gather(model: type[BaseModel], environ: Mapping[str, str], folder: Path, arguments: Mapping[str, Any]) -> Gathered:
    """Read every source. ``arguments`` are the settings of the command line, or of a program.

    Raises:
        SettingsError: a file cannot be read, or names a setting that its group does not have; with file and line.
    """
    reader = _Reader(model)
    environment = reader.variables(ENVIRONMENT, ((name, environ[name], name) for name in sorted(environ)))
    own_path = user_toml(environ)
    user = reader.users_file(own_path)
    trusted = is_trusted(folder, _folders(arguments, environment, user))
    filled_from = environ if trusted else {}
    lines = read_env_file(folder / ENV_FILE, filled_from) or []
    reader.note_unreadable(lines)
    env_file = reader.variables(
        ENV_FILE,
        (
            (assignment.name, assignment.value or "", f"{ENV_FILE}:{assignment.line}")
            for assignment in lines
            if assignment.name
        ),
    )
    toml = reader.toml(TOML_FILE, folder / TOML_FILE)
    above = Source(f"{folder}, found upwards")
    if folder != current_folder():
        above.put(("home",), str(folder / HOME_NAME), above.name)
        for source in (env_file, toml):
            source.start_at(folder, model)
    if not trusted:
        site = Gathered([environment, user], []).merged()
        stronger = [arguments, environment.values]
        ignored = [line for source in (env_file, toml) for line in _ignore(source, folder, site, stronger)]
        if ignored:
            reader.notices += [*ignored, _how_to_allow(folder, own_path)]
    return Gathered([environment, env_file, toml, user, above], reader.notices)


def allowed_of_file(
    model: type[BaseModel], values: Mapping[str, Any], path: Path, environ: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Settings that a file other than these brings along, less what its folder may not set; and a sentence for each."""
    reader, own_path = _Reader(model), user_toml(environ)
    environment = reader.variables(ENVIRONMENT, ((name, environ[name], name) for name in sorted(environ)))
    user = reader.users_file(own_path)
    allowed = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    if is_trusted(path.parent, _folders({}, environment, user)):
        return allowed, []
    source = Source(str(path), allowed)
    for name, value in allowed.items():
        inner = [(name, key) for key in value] if isinstance(value, dict) and model_of(model, name) else [(name,)]
        source.places.update(dict.fromkeys(inner, str(path)))
    site = Gathered([environment, user], []).merged()
    notices = list(_ignore(source, path.parent, site, []))
    return source.values, [*notices, _how_to_allow(path.parent, own_path)] if notices else []


def model_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The group of this name; None where it is a setting by itself."""
    return _groups(model).get(name)


def _folders(arguments: Mapping[str, Any], *sources: Source) -> list[str]:
    for values in (arguments, *(source.values for source in sources)):
        value = values.get("trusted_folders")
        if value:
            return value.split(":") if isinstance(value, str) else [str(part) for part in value]
    return []


def _ignore(source: Source, folder: Path, site: Mapping[str, Any], stronger: list[Mapping[str, Any]]) -> Iterator[str]:
    """Take away what an untrusted folder may not set; a sentence for each that would have counted."""
    for path, value in list(source.leaves()):
        reason = objection(path, value, folder, site)
        if reason is not None:
            place = source.places[path]
            source.drop(path)
            if not any(_sets(values, path) for values in stronger):
                yield f"{place}: {variable(path)} is ignored, since this folder is not trusted and {reason}"


def _sets(values: Mapping[str, Any], path: SettingPath) -> bool:
    table: Any = values
    for name in path:
        if not isinstance(table, Mapping) or name not in table:
            return False
        table = table[name]
    return True


def _how_to_allow(folder: Path, own_path: Path) -> str:
    return (
        f"to allow it, set it in the environment or in {_short(own_path)}, "
        f"or trust the folder: VGEN_TRUSTED_FOLDERS={folder}"
    )


def _short(path: Path) -> str:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - never raises
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


class _Reader:
    """Reads sources into settings, and collects what people should know."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model
        self._known = known_paths(model)
        self._groups = _groups(model)
        self.notices: list[str] = []

    def variables(self, name: str, variables: Iterator[tuple[str, str, str]]) -> Source:
        """A source of variables: (name, value, place) each."""
        source = Source(name)
        for original, value, place in variables:
            upper = original.upper()
            if not upper.startswith(PREFIX) or upper in NOT_SETTINGS or upper.startswith(_NOT_SETTINGS_PREFIXES):
                continue
            if upper in self._known:
                source.put(self._known[upper], value, place)
            elif self._groups.get(upper.removeprefix(PREFIX).lower()) is not None:
                self._group_as_json(source, upper.removeprefix(PREFIX).lower(), value, place)
            else:
                self._unknown(original, place, upper)
        return source

    def _group_as_json(self, source: Source, group: str, value: str, place: str) -> None:
        if not value.strip():
            return
        try:
            table = json.loads(value)
        except (ValueError, RecursionError):
            table = None
        if not isinstance(table, dict):
            raise SettingsError(f"{_prefixed(place, variable((group,)))}: is not a JSON object of settings")
        for key, item in table.items():
            self._put_known(source, (group, str(key)), item, place)

    def _put_known(self, source: Source, path: SettingPath, value: object, place: str) -> None:
        if self._known.get(variable(path)) == path:
            source.put(path, value, place)
        else:
            self._unknown(".".join(path), place, variable(path))

    def toml(self, name: str, path: Path) -> Source:
        """A source of a TOML file, empty where there is none."""
        source = Source(name)
        content = read_toml(path)
        if content is None:
            return source
        tables, text = content
        for key, value in tables.items():
            if key in self._groups and self._groups[key] is not None and isinstance(value, dict):
                for inner, item in value.items():
                    self._put_known(source, (key, inner), item, _at(name, toml_line(text, (key, inner))))
            elif key in self._groups:
                source.put((key,), value, _at(name, toml_line(text, (key,))))
            else:
                self._unknown(key, _at(name, toml_line(text, (key,))), PREFIX + key.upper())
        return source

    def users_file(self, path: Path) -> Source:
        """The user's own file, which may set everything. Raises SettingsError where it is another user's."""
        try:
            require_own(path)
        except OSError as error:
            raise SettingsError(f"{path} cannot be used: {error.strerror}") from None
        return self.toml(_short(path), path)

    def note_unreadable(self, lines: list[Any]) -> None:
        """A line of ``.env`` that is not NAME=value: a mistake if it is ours, else a notice."""
        for line in lines:
            if line.name is None:
                message = f"{ENV_FILE}:{line.line}: is not of the form NAME=value"
                if PREFIX in line.text.upper():
                    raise SettingsError(message)
                self.notices.append(message)

    def _unknown(self, name: str, place: str, upper: str) -> None:
        """Refuse unknown names of a group. Other names may be another program's, or another release's."""
        near = get_close_matches(upper, self._known, n=1)
        if near and "." in name:  # a key of a table, or of a group's JSON: named as it is written there
            hint = f"; did you mean {'.'.join(self._known[near[0]])}?"
        else:
            hint = f"; did you mean {near[0]}?" if near else ""
        in_group = any(model and upper.startswith(variable((group, ""))) for group, model in self._groups.items())
        where = name if place == name else f"{place}: {name}"
        message = f"{where} is not a setting{hint}"
        if in_group:
            raise SettingsError(message)
        self.notices.append(message)


def _at(name: str, line: int | None) -> str:
    return name if line is None else f"{name}:{line}"


def _prefixed(place: str, name: str) -> str:
    return name if place == name else f"{place}: {name}"
