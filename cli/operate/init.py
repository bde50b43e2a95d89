"""`vgen init`: writes a `vgen.toml` with every setting as a comment."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cli import output
from pipeline.errors import ConflictError, InputError, Problem
from pipeline.files.drafts import draft_of
from pipeline.settings import Settings
from pipeline.settings.files import TOML_FILE
from pipeline.settings.folder_trust import RULES, Rule

_WIDTH = 100
_HEAD = f"""\
# vgen in this folder and those below it. Remove the # from what you want to change, and run `vgen config`
# to see what is in force. docs/settings.md says more.
#
# (trusted) marks what counts only where this folder is trusted: name it in ~/.config/vgen/{TOML_FILE},
# as in trusted_folders = ["/home/me/films"], or set the value there or in the environment.
"""


def init(ctx: typer.Context) -> int:
    """Write a commented vgen.toml into the current folder; an existing file is not changed."""
    file = Path(TOML_FILE)
    if file.exists() or file.is_symlink():
        raise ConflictError(f"{file.absolute()} exists; it stays as it is")
    try:
        with draft_of(file) as draft:
            draft.write_text(text(), "utf-8")
    except OSError as error:
        raise InputError([Problem(f"cannot be written: {error.strerror}", str(file.absolute()))]) from None
    output.line(f"{file.absolute()}: every setting, as a comment")
    output.line('next: vgen run "a red star rises in the snow"')
    return 0


def text() -> str:
    """The whole file: a value that is set by default as it is, any other as an example of its form."""
    lines = [_HEAD, *_settings(Settings.model_fields, ())]
    for name, field in Settings.model_fields.items():
        if (group := _group_of(field)) is not None:
            lines += [f"# [{name}]", *_settings(group.model_fields, (name,))]
    return "\n".join(lines)


def _settings(fields: Mapping[str, FieldInfo], group: tuple[str, ...]) -> Iterator[str]:
    for name, field in fields.items():
        if _group_of(field) is not None:
            continue
        rule = RULES.get((*group, name), (None, ""))[0]
        mark = " (trusted)" if rule in (Rule.NEVER, Rule.UNSCREENED) else ""
        yield from textwrap.wrap(
            f"{field.description or ''}{mark}", _WIDTH, initial_indent="# ", subsequent_indent="# "
        )
        yield f"# {name} = {_value(field)}"
        yield ""


def _group_of(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _value(field: FieldInfo) -> str:
    """The default as TOML; an empty text where there is none, which sets nothing."""
    default: Any = None if field.default_factory is not None else field.default
    if isinstance(default, tuple):
        return json.dumps([str(item) for item in default])
    if default is None or default == {} or not isinstance(default, bool | int | float):
        return json.dumps("" if default in (None, {}) else str(default))
    return json.dumps(default)
