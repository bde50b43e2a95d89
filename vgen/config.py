"""A run's configuration: one YAML file, or a mapping of the same form, for one clip.

    preset: shapes-wan          # or model: ./step-9000, with extends: wan2.1-t2v-1.3b
    request: { prompt: a red star rises, seed: 7 }
    output: { path: star.mp4, overwrite: true }
    settings: { encode: { quality: 20 } }

Paths in a file start at its folder, those of overrides at the current one.
"""

import copy
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.errors import InputError, Problem, SettingsError
from pipeline.files.pipes import read_file_or_pipe
from pipeline.files.yaml_reader import YamlError, parse_yaml
from pipeline.nearest import did_you_mean
from pipeline.settings import Settings, load_settings
from pipeline.settings.sources import allowed_of_file
from vgen.one_clip import Output
from vgen.request import VideoRequest

logger = logging.getLogger(__name__)

_KEYS = ("preset", "model", "extends", "fields", "request", "output", "settings")
_OUTPUT_KEYS = ("path", "overwrite")
_TABLES = ("fields", "request", "output", "settings")
_TEXTS = frozenset({"prompt", "negative_prompt", "image", "last_image", "video", "path", "preset", "model", "extends"})
"""Keys whose overrides stay text; those of others are read as YAML's numbers, truths and lists."""
_PATHS = (("model",), ("output", "path"), ("request", "image"), ("request", "last_image"), ("request", "video"))
MAX_FILE_BYTES = 64 * 1024 * 1024
"""Room for an image of 32 MiB in base64."""
_STRICTNESS = ("open", "hold", "closed")
_URLS = ("data:", "http:", "https:")
_MAX_HINTS = 50
Override = tuple[str, str]
"""A dotted key and its value, as text."""


@dataclass(frozen=True)
class RunConfig:
    """A configuration that was checked."""

    preset: str | None
    model: str | None
    extends: str | None
    fields: dict[str, Any]
    request: VideoRequest | None
    output: Output
    settings: Settings


def read_config(
    source: Mapping[str, Any] | str | Path,
    overrides: Sequence[Override] = (),
    *,
    settings: Mapping[str, Any] | None = None,
    needs_request: bool = True,
) -> RunConfig:
    """Read and check a configuration.

    Args:
        source: a mapping, or the path of a YAML file.
        overrides: win over the source.
        settings: win over the source's, as do overrides.

    Raises:
        InputError: with every mistake; an unknown key with the nearest there are.
        SettingsError: a setting has a wrong value.
    """
    data, folder, stem = _read(source)
    in_file = "settings" in data
    if not isinstance(source, Mapping) and isinstance(data.get("settings"), dict):
        # Somebody else may have written the file; overrides and arguments are the caller's word. What it says of
        # screening is compared with the site's below: it may be stricter, and is refused where it is laxer.
        screening = {name: data["settings"].pop(name) for name in ("safety",) if name in data["settings"]}
        allowed, notices = allowed_of_file(Settings, data["settings"], Path(source).absolute(), os.environ)
        data["settings"] = allowed | screening
        for text in notices:
            logger.warning(text)
    problems: list[Problem] = []
    safety = None if isinstance(source, Mapping) else _safety_of(data)
    for keys in _PATHS:
        _at(data, keys, lambda text: str(folder / _expanded(text)))
    for key, value in overrides:
        _override(data, key, value, problems)
    problems += _unknown(data)
    problems += [] if problems else _contradictions(data, needs_request)
    name = None if isinstance(source, Mapping) else str(source)
    if problems:
        raise InputError(problems) if name is None else InputError(problems).in_file(name)
    output = data.get("output", {})
    path = Path(output.get("path") or Path.cwd() / f"{stem}.mp4")
    request = data.get("request")
    return RunConfig(
        preset=data.get("preset"),
        model=data.get("model"),
        extends=data.get("extends"),
        fields=data.get("fields") or {},
        request=VideoRequest.of_mapping(request) if request else None,
        output=Output(path, output.get("overwrite", False), in_config=True),
        settings=_settings(data, dict(settings or {}), safety, name if in_file else None),
    )


def _read(source: Mapping[str, Any] | str | Path) -> tuple[dict[str, Any], Path, str]:
    if isinstance(source, Mapping):
        return copy.deepcopy(dict(source)), Path.cwd(), "clip"
    path = Path(source)
    content = read_file_or_pipe(path, what="the configuration", limit_bytes=MAX_FILE_BYTES)
    try:
        data = parse_yaml(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError([Problem("is not UTF-8", str(path))]) from None
    except YamlError as error:
        raise InputError([Problem(f"the configuration cannot be read: {error}", str(path), error.line)]) from None
    if not isinstance(data, dict):
        raise InputError([Problem(f"is not a mapping of keys to values; the keys are: {', '.join(_KEYS)}", str(path))])
    return data, path.absolute().parent, path.stem


def _at(data: dict[str, Any], keys: Sequence[str], change: Callable[[str], str]) -> None:
    """Change the path under these keys, if there is one."""
    table: Any = data
    for key in keys[:-1]:
        table = table.get(key)
        if not isinstance(table, dict):
            return
    value = table.get(keys[-1])
    is_hub_id = keys == ("model",) and isinstance(value, str) and not value.startswith(("/", "./", "../", "~/"))
    if isinstance(value, str) and not value.startswith(_URLS) and not is_hub_id:
        table[keys[-1]] = change(value)


def _override(data: dict[str, Any], key: str, text: str, problems: list[Problem]) -> None:
    *tables, last = keys = key.split(".")
    table: Any = data
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            problems.append(Problem(f"{name!r} has no keys below it", field=f"--{key}"))
            return
    value: Any = text
    if last not in _TEXTS and keys[0] != "settings":
        try:
            value = parse_yaml(text)
        except YamlError as error:
            problems.append(Problem(f"{text!r:.80} is not a number, truth or list: {error}", field=f"--{key}"))
            return
    table[last] = value
    if tuple(keys) in _PATHS:
        _at(data, keys, lambda path: str(_expanded(path).absolute()))


def _expanded(text: str) -> Path:
    """The path, its ``~`` replaced; where there is no such home it stays, and nothing lies there, as is said later."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _unknown(data: Mapping[str, Any]) -> list[Problem]:
    """Keys that mean nothing; those of the request are judged with its values."""
    problems = _unknown_keys(data, _KEYS, "")
    for name in _TABLES:
        if name in data and not isinstance(data[name], dict):
            problems.append(Problem(f"{data[name]!r} is not a mapping", field=name))
    if problems:
        return problems
    problems += _unknown_keys(data.get("output", {}), _OUTPUT_KEYS, "output.")
    for name, value in data.get("settings", {}).items():
        unknown = _unknown_keys({name: value}, Settings.model_fields, "settings.")
        problems += unknown
        group = None if unknown else Settings.model_fields[name].annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            if not isinstance(value, dict):
                problems.append(Problem(f"{value!r} is not a mapping", field=f"settings.{name}"))
            else:
                problems += _unknown_keys(value, group.model_fields, f"settings.{name}.")
    return problems


def _contradictions(data: Mapping[str, Any], needs_request: bool) -> list[Problem]:
    problems = []
    if needs_request and data.get("request", {}).get("prompt") is None:
        problems.append(Problem("is missing", field="request.prompt"))
    for name in ("preset", "model", "extends"):
        if not isinstance(data.get(name, ""), str):
            problems.append(Problem(f"{data[name]!r} is not text", field=name))
    if "preset" in data and "model" in data:
        problems.append(Problem("preset and model exclude each other", field="preset"))
    for name in ("extends", "fields"):
        if name in data and "model" not in data:
            problems.append(Problem("goes with model", field=name))
    output = data.get("output", {})
    if not isinstance(output.get("path", ""), str):
        problems.append(Problem(f"{output['path']!r} is not text", field="output.path"))
    if not isinstance(output.get("overwrite", False), bool):
        problems.append(Problem(f"{output['overwrite']!r} is not true or false", field="output.overwrite"))
    return problems


def _settings(
    data: Mapping[str, Any], overrides: dict[str, Any], safety: Mapping[str, Any] | None, file: str | None
) -> Settings:
    """The settings in force; ``overrides`` win. ``safety`` is what a file itself set, ``file`` its name if it did.

    Raises InputError, SettingsError.
    """
    try:
        effective = load_settings(**((data.get("settings") or {}) | overrides))
    except SettingsError as error:
        raise error if file is None else SettingsError(f"{file}: {error}") from None
    problems = _unscreened(data, effective) or (_laxer(safety, load_settings(**overrides)) if safety else [])
    if problems:
        raise InputError(problems)
    return effective


def _safety_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file itself sets of the safety settings, before anything is laid over it."""
    settings = data.get("settings")
    safety = settings.get("safety") if isinstance(settings, dict) else None
    return dict(safety) if isinstance(safety, dict) else {}


def _unscreened(data: Mapping[str, Any], settings: Settings) -> list[Problem]:
    """A policy that was asked for by name does not stay without effect."""
    policy = _safety_of(data).get("policy")
    if policy not in ("closed", "hold") or settings.safety.classifier is not None:
        return []
    message = f"{policy!r} is given, but no classifier is set, so nothing would be screened: set VGEN_SAFETY_CLASSIFIER"
    return [Problem(message, field="settings.safety.policy")]


def _laxer(in_file: Mapping[str, Any], site: Settings) -> list[Problem]:
    """Return where a file would screen less than the site does, which a file cannot decide."""
    site_safety = site.safety
    if site_safety.classifier is None:
        return []
    problems = []
    if Path(str(in_file.get("classifier", site_safety.classifier))) != site_safety.classifier:
        problems.append(
            ("classifier", f"{in_file['classifier']!r} is not this site's, {str(site_safety.classifier)!r}")
        )
    policy = in_file.get("policy", site_safety.policy)
    if _STRICTNESS.index(policy) < _STRICTNESS.index(site_safety.policy):
        problems.append(("policy", f"{policy!r} is laxer than this site's, {site_safety.policy!r}"))
    threshold = float(in_file.get("threshold", site_safety.threshold))
    if threshold > site_safety.threshold:
        problems.append(("threshold", f"{threshold:g} is over this site's, {site_safety.threshold:g}"))
    hint = "; leave it out of the file, or set it on the command line or in read_config's settings"
    return [Problem(f"{message}{hint}", field=f"settings.safety.{name}") for name, message in problems]


def _unknown_keys(mapping: Mapping[Any, Any], known: Iterable[str], prefix: str) -> list[Problem]:
    names = list(known)
    problems: list[Problem] = []
    for key in mapping:
        if key not in names:
            hint = did_you_mean(key, names, 2) if len(problems) < _MAX_HINTS else ""
            problems.append(Problem(f"unknown key; {hint}known: {', '.join(names)}", field=f"{prefix}{key}"))
    return problems
