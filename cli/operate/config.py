"""`vgen config`: shows every setting and where its value comes from."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, SecretStr

from cli import output
from cli.context import notices_of, settings_of
from cli.options import Json
from pipeline.redaction import shown_setting
from pipeline.settings import Settings
from pipeline.settings.project import project_folder
from pipeline.settings.sources import gather, variable
from service.views.operations import ConfigView, SettingView

_MASK = "********"


def config(ctx: typer.Context, json: Json = False) -> int:
    """Show the settings in force and where each came from; secrets are masked. What is ignored is told on stderr."""
    settings = settings_of(ctx)
    view = ConfigView(
        mode="solo" if settings.solo else "cluster",
        settings=list(in_force(settings, ctx.find_root().obj or {})),
        notices=notices_of(ctx),
    )
    if json:
        output.as_json(view)
        return 0
    output.facts((("mode", view.mode),))
    output.table(
        ("setting", "value", "from"),
        [(row.name, "(not set)" if row.value is None else row.value, row.source) for row in view.settings],
    )
    return 0


def in_force(settings: Settings, arguments: Mapping[str, object]) -> Iterator[SettingView]:
    """Every setting, in the order of its declaration."""
    gathered = gather(type(settings), os.environ, project_folder(), arguments)
    for path, value, description in _leaves(settings):
        source = gathered.source_of(path)
        name = "argument" if path[0] in arguments else source.name if source else "default"
        yield SettingView(name=variable(path), value=_shown(value), source=name, description=description)


def _leaves(settings: Settings) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            for inner, inner_field in type(value).model_fields.items():
                yield (name, inner), getattr(value, inner), inner_field.description or ""
        else:
            yield (name,), value, field.description or ""


def _shown(value: Any) -> Any:
    """The value for people and JSON; no secret, nor what a URL holds of them."""
    if isinstance(value, SecretStr):
        return _MASK
    if isinstance(value, tuple):
        return [_shown(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return shown_setting(value) if isinstance(value, str) else value
