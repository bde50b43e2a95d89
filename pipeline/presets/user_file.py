"""A user's preset file: the catalogue's schema, plus ``extends`` and ``model``, with fewer required fields.

The file's name without ``.toml`` is the preset's name.
"""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import InputError, Problem
from pipeline.files.json_reader import read_json
from pipeline.files.toml_reader import read_toml
from pipeline.presets.preset import Preset, all_presets

MAX_FILE_BYTES = 1024 * 1024
INDEX = "model_index.json"
"""The file of a diffusers folder that names its pipeline class."""
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_NAME_RULE = "lower-case letters, digits, dots and hyphens, the first a letter or digit"
_PATH_STARTS = ("/", "./", "../", "~/")
_Mistakes = tuple[Problem, ...]


def read_user_preset(file: Path) -> Preset | _Mistakes:
    """The preset of the file, or every mistake found, each with file, field, value and rule."""
    try:
        stat = file.stat()
        data = _parsed(file, stat.st_mtime_ns, stat.st_size, stat.st_ino)
    except InputError as error:
        return error.problems
    except OSError as error:
        return (Problem(f"the preset cannot be read: {error.strerror}", str(file)),)
    mistakes = _name_mistakes(file.stem, data)
    values, more = _merged(data, file)
    mistakes += more
    if mistakes:
        return _problems(file, mistakes)
    try:
        preset = Preset.model_validate({"version": 1, "description": "", "family": "own", **values, "name": file.stem})
    except ValidationError as error:
        return _problems(file, [_sentence(dict(item), "extends" in data) for item in error.errors()])
    mistakes = preset.contradictions() + _hidden_randomness(preset)
    return _problems(file, mistakes) if mistakes else preset


@lru_cache(maxsize=512)
def _parsed(file: Path, _mtime_ns: int, _size: int, _inode: int) -> dict[str, Any]:
    """Parsed once as long as the file stays as it is; nobody changes what is returned."""
    return read_toml(file, what="the preset", limit_bytes=MAX_FILE_BYTES)


def _problems(file: Path, mistakes: list[tuple[str, str]]) -> _Mistakes:
    file_name = str(file).encode("utf-8", "backslashreplace").decode()  # a file's name need not be text
    return tuple(Problem(message, file_name, field=field or None) for field, message in mistakes)


def _name_mistakes(stem: str, data: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not _NAME.fullmatch(stem):
        return [("name", f"{stem!r}, from the file's name, breaks the rule of names: {_NAME_RULE}")]
    if stem in all_presets():
        return [("name", f"{stem!r}, from the file's name, is a preset of the catalogue; give the file another name")]
    model = data.get("model", data.get("repo"))
    if isinstance(model, str) and not model.isprintable():
        return [("model", f"{model!r:.80} has a character that a name cannot have")]
    if data.get("name", stem) != stem:
        return [("name", f"{data['name']!r} is not the file's name, {stem!r}; leave it out or rename the file")]
    return []


def _merged(data: Mapping[str, Any], file: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The file's values on top of what it extends, the model's path made absolute, the class found."""
    fields = {key: value for key, value in data.items() if key not in ("extends", "model")}
    mistakes: list[tuple[str, str]] = []
    if "model" in data:
        if "repo" in data:
            mistakes.append(("model", "is another name of repo; give one of them"))
        fields["repo"] = data["model"]
    if isinstance(fields.get("repo"), str):
        fields["repo"] = _located(fields["repo"], file.parent)
    values: dict[str, Any] = {}
    if "extends" in data:
        base = all_presets().get(data["extends"]) if isinstance(data["extends"], str) else None
        if base is None:
            names = ", ".join(all_presets())
            mistakes.append(("extends", f"{data['extends']!r} is not a preset of the catalogue; use one of: {names}"))
        else:
            values = base.model_dump(mode="json")
            if fields.get("repo", base.repo) != base.repo:
                # What was published of the base does not hold for another model.
                values |= {
                    "revision": "main",
                    "memory_gib": None,
                    "memory_source": None,
                    "published": (),
                    "licence": None,
                }
            if fields.get("pipeline_class", base.pipeline_class) != base.pipeline_class:
                values["continuation"] = None  # how the base goes on says nothing of another class
    for key, value in fields.items():
        table = values.get(key)
        values[key] = {**table, **value} if isinstance(table, dict) and isinstance(value, dict) else value
    if "pipeline_class" not in values and isinstance(values.get("repo"), str) and not mistakes:
        pipeline_class = class_of(values["repo"], str(values.get("revision", "main")))
        if pipeline_class is None:
            where = f"{values['repo']}/{INDEX}"
            mistakes.append(("pipeline_class", f"is not given, and {where} is not on this machine to take it from"))
        else:
            values["pipeline_class"] = pipeline_class
    return values, mistakes


def _located(model: str, folder: Path) -> str:
    """A path is made absolute, starting at the preset file's folder, links kept; anything else is a hub id."""
    if not model.startswith(_PATH_STARTS):
        return model
    return os.path.normpath(folder.absolute() / Path(model).expanduser())


def class_of(model: str, revision: str) -> str | None:
    """Return the class in the model's index, from its folder or this machine's hub cache; None without an index."""
    if Path(model).is_absolute():
        index = Path(model) / INDEX
    else:
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - slow to load, and few presets need it
        from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

        try:
            cached = try_to_load_from_cache(model, INDEX, revision=revision)
        except HFValidationError:
            return None
        if not isinstance(cached, str):
            return None
        index = Path(cached)
    try:
        named = read_json(index, what="the model's index", limit_bytes=MAX_FILE_BYTES)
    except InputError:
        return None
    name = named.get("_class_name") if isinstance(named, dict) else None
    return name if isinstance(name, str) else None


def _hidden_randomness(preset: Preset) -> list[tuple[str, str]]:
    """Clips of random weights have to say so, whatever the preset is called."""
    is_random = any(other.random_weights and other.repo == preset.repo for other in all_presets().values())
    if is_random and not preset.random_weights:
        return [("random_weights", f"must be true: the weights of {preset.repo!r} are random")]
    return []


def _sentence(item: Mapping[str, Any], extends: bool) -> tuple[str, str]:
    field = ".".join(str(part) for part in item["loc"])
    if item["type"] == "missing":
        return field, "is required" + ("" if extends else " (or `extends` a preset that has it)")
    if item["type"] == "extra_forbidden":
        return field, f"is not a field of a preset; use one of: {', '.join(['extends', 'model', *Preset.model_fields])}"
    return field, f"{item['input']!r:.80} is not possible: {item['msg']}"
