"""The clip to make: the fields of a prompt file's line, typed, and under the same rules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.prompts import PlannedJob, Submission, parse_bytes
from pipeline.settings import Settings

_NAME = "request.jsonl"


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA that acts on the clip: a ``path`` (a file, or a folder with ``weight_name``), or a ``repo`` of the hub."""

    path: str | Path | None = None
    repo: str | None = None
    weight_name: str | None = None
    revision: str | None = None
    """The revision of ``repo``; without one, the commit that is in the cache."""
    scale: float = 1.0
    load_into_transformer_2: bool = False
    """Wan 2.2 A14B: it is the low-noise expert's."""

    def as_mapping(self) -> dict[str, Any]:
        """An entry of the field ``loras`` of a prompt file's line."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return values if self.path is None else {**values, "path": str(self.path)}


@dataclass(frozen=True, slots=True)
class VideoRequest:
    """One clip. What is None is the preset's default; images and videos are paths, ``http(s)`` or ``data:`` URLs."""

    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None
    """The seed; without one it follows from the rest of the request: the same request gives the same clip."""
    num_frames: int | None = None
    seconds: float | None = None
    """Instead of ``num_frames``."""
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    image: str | Path | None = None
    last_image: str | Path | None = None
    video: str | Path | None = None
    reference_images: Sequence[str | Path] = ()
    loras: Sequence[Lora | str | Mapping[str, Any]] = ()
    """Text is ``FILE@SCALE`` or ``org/name:file@SCALE``, a mapping one of a prompt file's field ``loras``."""
    enhance: bool | None = None
    other: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of a prompt file's line."""

    @classmethod
    def of_mapping(cls, values: Mapping[str, Any]) -> VideoRequest:
        """Make a request from a mapping of fields; names without an attribute go to ``other``, to be checked there.

        Raises:
            InputError: there is no prompt.
        """
        names = {item.name for item in fields(cls)} - {"other"}
        if "prompt" not in values:
            raise InputError([Problem("is missing", field="prompt")])
        attributes = {name: value for name, value in values.items() if name in names}
        return cls(**attributes, other={name: value for name, value in values.items() if name not in names})

    def as_line(self, preset: str) -> dict[str, Any]:
        """The line of a ``.jsonl`` prompt file that asks for this clip."""
        line: dict[str, Any] = {"preset": preset}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "other" or value is None:
                continue
            if item.name == "reference_images":
                if value:
                    line[item.name] = _references(value)
            elif item.name == "loras":
                if value:
                    line[item.name] = _loras(value)
            else:
                line[item.name] = str(value) if isinstance(value, Path) else value
        return line | {name: value for name, value in self.other.items() if value is not None}


def _references(value: Any) -> Any:
    """Return the images as a prompt file has them; what is not a list goes through as it is, to be refused there."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value) if isinstance(value, Path) else value
    return [str(each) if isinstance(each, Path) else each for each in value]


def _loras(value: Any) -> Any:
    """Return the LoRAs as a prompt file has them; what is not a list goes through as it is, to be refused there."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    return [lora.as_mapping() if isinstance(lora, Lora) else lora for lora in value]


def planned(request: VideoRequest, preset: str, settings: Settings, folder: Path) -> tuple[PlannedJob, Submission]:
    """The one job of the request and its inputs, checked as a prompt file's. Relative paths start at ``folder``.

    Raises:
        InputError: with every mistake, or because the request is for several clips.
    """
    try:
        data = json.dumps(request.as_line(preset)).encode()
    except (TypeError, ValueError) as error:
        raise InputError([Problem(f"cannot be written as JSON: {error}")]) from None
    try:
        submission = parse_bytes(data, _NAME, overrides={}, settings=settings, folder=folder)
    except InputError as error:
        raise InputError([Problem(problem.message, field=problem.field) for problem in error.problems]) from None
    if len(submission.jobs) != 1:
        raise InputError([Problem(f"asks for {len(submission.jobs)} clips; a request is for one")])
    job = submission.jobs[0]
    if job.spec.preset != preset:
        raise InputError([Problem(f"{job.spec.preset!r} is not the preset that is loaded, {preset!r}", field="preset")])
    if job.spec.segments != 1 or job.spec.extends is not None:
        rule = "a request makes one segment; a batch makes long videos: vgen.submit, or `vgen run`"
        raise InputError([Problem(rule, field="segments")])
    return job, submission
