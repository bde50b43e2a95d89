"""A preset made on the spot for a model that is named by its folder or hub id."""

import json
import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.presets import all_presets, load_library
from pipeline.presets.user_file import class_of

_PATH_STARTS = ("/", "./", "../", "~/")
_ENOUGH = frozenset({"workload", "dtype", "frames", "size", "defaults"})
"""The fields that a preset has to give if it extends none."""


class ModelFolder:
    """A folder of presets with this one in it; removed by ``close``, or when nobody holds it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix="vgen-preset-"))
        self.close = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        (self.folder / f"{name}.toml").write_text(text, "utf-8")


def named_model(model: str | Path, extends: str | None, fields: Mapping[str, Any]) -> ModelFolder:
    """A preset for the model; see ``VideoGenerator.from_pretrained``.

    Raises:
        InputError: no preset can be made of these; every mistake is named.
    """
    located = _located(model)
    base = extends
    if base is None and not fields.keys() >= _ENOUGH:
        base = _only_preset_of(located, str(fields.get("revision", "main")))
    preset_fields = ({} if base is None else {"extends": base}) | {"model": located, **fields}
    name = _name(located)
    folder = ModelFolder(name, "".join(f"{key} = {_toml(value)}\n" for key, value in preset_fields.items()))
    try:
        load_library(folder.folder).get(name)
    except InputError as error:
        folder.close()
        raise InputError([Problem(problem.message, field=problem.field) for problem in error.problems]) from None
    return folder


def _located(model: str | Path) -> str:
    """An absolute path, or a hub id."""
    if isinstance(model, Path) or model.startswith(_PATH_STARTS) or Path(model).is_dir():
        return str(Path(model).expanduser().absolute())
    return model


def _only_preset_of(model: str, revision: str) -> str:
    pipeline_class = class_of(model, revision)
    if pipeline_class is None:
        raise InputError([Problem(f"{model!r} has no model_index.json on this machine", field="model")])
    fitting = [preset.name for preset in all_presets().values() if preset.pipeline_class == pipeline_class]
    if len(fitting) != 1:
        choice = f"one of {', '.join(fitting)}" if fitting else f"a preset, or fields: {', '.join(sorted(_ENOUGH))}"
        raise InputError(
            [Problem(f"is needed, since the model's class is {pipeline_class}: give {choice}", field="extends")]
        )
    return fitting[0]


def _name(model: str) -> str:
    plain = re.sub(r"[^a-z0-9.-]+", "-", Path(model).name.lower()).strip("-.") or "model"
    return f"{plain}-own" if plain in all_presets() else plain


def _toml(value: Any) -> str:
    """A value of TOML; JSON's texts, numbers, truths and lists are written the same way."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(str(key))} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise InputError([Problem(f"{value!r} cannot be a preset's value", field="fields")]) from None
