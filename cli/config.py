"""`vgen config`: which settings are in force, and where each came from."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli import output
from cli.context import settings_of
from cli.options import Json

if TYPE_CHECKING:
    from cli.views.operations import SettingView
    from pipeline.settings import Settings

_PREFIX = "VGEN_"
_NOT_SETTINGS = frozenset({"VGEN_FAILPOINTS", "VGEN_FLOWER_BASIC_AUTH", "VGEN_IDLE_STEP_S"})
"""Variables that failpoints, an option and the idle generator read."""
_URL_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")
_MASK = "********"


def config(ctx: typer.Context, json: Json = False) -> int:
    """Show the settings in force and where each came from; secrets are masked."""
    from cli.views.operations import ConfigView

    settings = settings_of(ctx)
    view = ConfigView(
        mode="solo" if settings.solo else "cluster",
        settings=list(in_force(settings, ctx.find_root().obj or {})),
    )
    if json:
        output.as_json(view)
        return 0
    output.facts((("mode", view.mode),))
    output.table(
        ("setting", "value", "from"),
        [(row.name, "(not set)" if row.value is None else row.value, row.source) for row in view.settings],
    )
    for text in unknown_variables(settings):
        output.notice(text)
    return 0


def in_force(settings: Settings, arguments: Mapping[str, object]) -> Iterator[SettingView]:
    """Every setting, in the order of its declaration."""
    from cli.views.operations import SettingView

    sources = _Sources(arguments)
    for path, value, description in _leaves(settings):
        yield SettingView(name=_variable(path), value=_shown(value), source=sources.of(path), description=description)


def unknown_variables(settings: Settings) -> list[str]:
    """A sentence for each VGEN_* variable that sets nothing: most likely misspelt."""
    known = {_variable(path) for path, _, _ in _leaves(settings)}
    groups = {_variable(path[:1]) for path, _, _ in _leaves(settings)}
    sentences = []
    for name in sorted(os.environ):
        upper = name.upper()
        if upper.startswith(_PREFIX) and upper not in known | groups | _NOT_SETTINGS:
            near = get_close_matches(upper, known, n=1)
            sentences.append(f"{name} is not a setting{f'; did you mean {near[0]}?' if near else ''}")
    return sentences


def _leaves(settings: Settings) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    from pydantic import BaseModel

    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            for inner, inner_field in type(value).model_fields.items():
                yield (name, inner), getattr(value, inner), inner_field.description or ""
        else:
            yield (name,), value, field.description or ""


def _variable(path: tuple[str, ...]) -> str:
    return _PREFIX + "_".join(path).upper()


def _shown(value: Any) -> Any:
    """The value for people and JSON; no secret, nor a URL's password."""
    from pydantic import SecretStr

    if isinstance(value, SecretStr):
        return _MASK
    if isinstance(value, tuple):
        return [_shown(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return _URL_PASSWORD.sub(rf"\1:{_MASK}@", value) if isinstance(value, str) else value


class _Sources:
    """Where settings can come from, strongest first."""

    def __init__(self, arguments: Mapping[str, object]) -> None:
        from dotenv import dotenv_values

        from pipeline.settings import TOML_FILE

        self._arguments = arguments
        self._variables = {
            "environment": {name.upper() for name in os.environ},
            ".env": {name.upper() for name in dotenv_values(".env")} if Path(".env").is_file() else set(),
        }
        self._toml: dict[str, Any] = {}
        if Path(TOML_FILE).is_file():
            self._toml = tomllib.loads(Path(TOML_FILE).read_text("utf-8"))

    def of(self, path: tuple[str, ...]) -> str:
        if path[0] in self._arguments:
            return "argument"
        for source, names in self._variables.items():
            # A whole group may be given as JSON in the group's own variable.
            if _variable(path) in names or _variable(path[:1]) in names:
                return source
        found: Any = self._toml
        for part in path:
            if not isinstance(found, dict) or part not in found:
                return "default"
            found = found[part]
        return "vgen.toml"
