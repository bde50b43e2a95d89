"""Reading the settings of a process from all their sources, and describing what is wrong with them."""

import os
import urllib.parse
from collections.abc import Mapping
from functools import lru_cache

from pydantic import ValidationError

from pipeline.errors import SettingsError
from pipeline.redaction import redact, shown_setting
from pipeline.settings.project import project_folder
from pipeline.settings.schema import Settings
from pipeline.settings.sources import gather, variable


def load_settings(**overrides: object) -> Settings:
    """Read the settings from every source.

    Raises:
        SettingsError: a value is wrong; the message names the file and line, each setting, its value and the rule.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("\n".join(_sentences(error, overrides))) from None


def notices_of(**overrides: object) -> list[str]:
    """Sentences for people about the sources: what an untrusted folder may not set, and names that are not settings."""
    return gather(Settings, os.environ, project_folder(), overrides).notices


def _is_address(given: object) -> bool:
    """Whether it has the parts of a URL, of which redaction knows the secret ones."""
    try:
        parts = urllib.parse.urlsplit(str(given))
        return bool(parts.scheme and parts.netloc) and (parts.port or 0) >= 0
    except ValueError:
        return False


def _sentences(error: ValidationError, overrides: Mapping[str, object]) -> list[str]:
    gathered = gather(Settings, os.environ, project_folder(), overrides)
    lines = []
    for item in error.errors():
        path = tuple(str(part) for part in item["loc"][:2])
        source = gathered.source_of(path) or gathered.source_of(path[:1])
        place = source.places.get(path) or source.places[path[:1]] if source and path[0] not in overrides else ""
        name = variable(tuple(str(part) for part in item["loc"]))
        where = "" if place in ("", name) else f"{place}: "
        value = item.get("input")
        shown_value = repr(shown_setting(value)) if isinstance(value, str) else redact(repr(value))
        hidden = "key" in name.lower() or (name.endswith("_URL") and not _is_address(value))
        suffix = "" if hidden else f" (given: {shown_value})"
        lines.append(f"{where}{name}: {item['msg'].removeprefix('Value error, ')}{suffix}")
    return lines


@lru_cache(maxsize=1)
def current_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()
