"""Reads a sidecar that anybody may have written: within limits, and with nothing taken on trust."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.files.json_reader import read_json
from pipeline.prompts.fields import PARSERS
from pipeline.prompts.numbers import show
from pipeline.spec import MAX_SEGMENTS

SCHEMA = "vgen.sidecar/1"
MAX_BYTES = 64 * 1024 * 1024
"""Room for the longest prompts of the most segments, in each of the places that hold them."""


@dataclass(frozen=True, slots=True)
class SidecarFile:
    """The sidecar that a clip is made from again. ``request`` is unchecked, but for the prompts pinned in it."""

    request: dict[str, Any]
    preset_version: int | None
    encode: dict[str, Any]


def read_sidecar(path: Path) -> SidecarFile:
    """Read a sidecar file.

    Raises:
        InputError: it cannot be read, is not a sidecar, or a part of it has a wrong form; with the file and the field.
    """
    sidecar = read_json(path, what="the sidecar", limit_bytes=MAX_BYTES)
    if not isinstance(sidecar, dict) or sidecar.get("schema") != SCHEMA:
        raise InputError([Problem(f"is not a sidecar: 'schema' is not {SCHEMA!r}", str(path))])
    problems: list[Problem] = []
    request = _mapping(sidecar, "request", path, problems)
    encode = _mapping(sidecar, "encode", path, problems, needed=False)
    version = _mapping(sidecar, "preset", path, problems, needed=False).get("version")
    if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
        problems.append(Problem(f"{show(version)} is not a whole number", str(path), field="preset.version"))
    prompts = _prompts_used(sidecar, path, problems)
    if problems:
        raise InputError(problems)
    return SidecarFile(_pinned(request, prompts, path), version, encode)


def _mapping(
    sidecar: Mapping[str, Any], name: str, path: Path, problems: list[Problem], *, needed: bool = True
) -> dict[str, Any]:
    value = sidecar.get(name)
    if value is None and not needed:
        return {}
    if isinstance(value, dict):
        return value
    message = "is missing" if value is None else f"{show(value)} is not a mapping"
    problems.append(Problem(message, str(path), field=name))
    return {}


def _prompts_used(sidecar: Mapping[str, Any], path: Path, problems: list[Problem]) -> list[str]:
    """The prompt that each segment was made with; fewer than the segments where some were not made."""
    segments = sidecar.get("segments")
    if segments is None or segments == []:
        segments = [{"prompt_used": sidecar.get("prompt_used")}]
    if not isinstance(segments, list) or len(segments) > MAX_SEGMENTS:
        problems.append(Problem(f"{show(segments)} is not a list of segments", str(path), field="segments"))
        return []
    prompts = []
    for number, segment in enumerate(segments):
        where = "prompt_used" if segments is not sidecar.get("segments") else f"segments.{number}.prompt_used"
        try:
            if not isinstance(segment, dict):
                raise ValueError(f"{show(segment)} is not a mapping")
            if segment.get("prompt_used"):
                prompts.append(str(PARSERS["prompt"](segment["prompt_used"], False)))
        except ValueError as error:
            problems.append(Problem(str(error), str(path), field=where))
    return prompts


def _pinned(request: dict[str, Any], prompts: list[str], path: Path) -> dict[str, Any]:
    """The request with the prompts that were used: an enhancer would not answer the same again.

    What contradicts itself is left as it is, to be refused.
    """
    count, segment_prompts = request.get("segments", 1), request.get("segment_prompts") or []
    contradicts = not isinstance(segment_prompts, list) or (
        segment_prompts and (len(segment_prompts) != count or segment_prompts[0] != request.get("prompt"))
    )
    if contradicts or not isinstance(count, int) or isinstance(count, bool) or count < 1 or len(prompts) < count:
        return request
    if len(prompts) > count:
        message = f"it describes {len(prompts)} segments, but request.segments is {count}"
        raise InputError([Problem(message, str(path), field="segments")])
    several = prompts if count > 1 else []
    return {**request, "prompt": prompts[0], "segment_prompts": several, "enhance": False, "auto_extend": False}
