"""Stored MagCache ratios of presets: one JSON file each, in the folder of the user's presets.

They depend on the weights, so they are kept with the preset's digest, and a job has them pinned when it is submitted:
no other host needs the file.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError
from pipeline.files.drafts import draft_of
from pipeline.files.json_reader import read_json
from pipeline.presets.preset import Preset

SCHEMA = "vgen.mag-ratios/1"
_LIMIT = 100.0
MAX_FILE_BYTES = 1024 * 1024


def path_of(folder: Path, preset: Preset) -> Path:
    return folder / f"{preset.name}.mag-ratios.json"


def write(folder: Path, preset: Preset, ratios: Sequence[float], *, prompt: str, seed: int) -> Path:
    """Keep the ratios of one run, one a step; a file that is there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, preset)
    values = {
        "schema": SCHEMA,
        "preset": preset.name,
        "digest": preset.digest,
        "prompt": prompt,
        "seed": seed,
        "ratios": [round(float(ratio), 5) for ratio in ratios],
    }
    with draft_of(path) as draft:
        draft.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    return path


def read(folder: Path | None, preset: Preset) -> tuple[float, ...] | str:
    """The preset's ratios, or the sentence on why there are none to use."""
    how = f"run `vgen models calibrate {preset.name}` on a machine that has the model, or give step_cache.ratios"
    if folder is None or not path_of(folder, preset).exists():
        return f"step_cache: mag_cache needs ratios measured for preset {preset.name!r}: {how}"
    path = path_of(folder, preset)
    try:
        values = read_json(path, what="the file of ratios", limit_bytes=MAX_FILE_BYTES)
        ratios = tuple(float(ratio) for ratio in values["ratios"])
        schema, digest = values["schema"], values["digest"]
    except InputError as error:
        return f"step_cache: {error}; {how}"
    except (ValueError, KeyError, TypeError) as error:
        return f"step_cache: {path} cannot be read ({type(error).__name__}: {error}); {how}"
    if schema != SCHEMA or not ratios or not all(math.isfinite(r) and 0 < r <= _LIMIT for r in ratios):
        return f"step_cache: {path} is not a file of ratios ({SCHEMA}, numbers over 0 and at most {_LIMIT:g}); {how}"
    if digest != preset.digest:
        return f"step_cache: {path} was measured for another preset of the name {preset.name!r}; {how}"
    return ratios
