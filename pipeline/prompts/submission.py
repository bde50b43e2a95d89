"""A parsed prompt file: a fingerprint, the inputs to store, and its jobs, made when they are asked for."""

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, overload

from pipeline.acceleration import Acceleration
from pipeline.digests import canonical_json, sha256_hex
from pipeline.inputs.collector import StoredInput
from pipeline.prompts.scoring import NO_SCORING, FileScoring
from pipeline.seeds import derive_seed
from pipeline.spec import InputRef, JobSpec, LoraRef

TEMPLATE_FIELDS = (
    "negative_prompt",
    "preset",
    "width",
    "height",
    "num_frames",
    "fps",
    "num_inference_steps",
    "guidance_scale",
    "guidance_scale_2",
    "image",
    "gpu",
    "priority",
    "enhance",
    "preset_digest",
    "random_weights",
    "last_image",
    "video",
    "reference_images",
    "acceleration",
    "segments",
    "segment_prompts",
    "auto_extend",
    "seam_frames",
    "loras",
)
_OWN_PRESET_FIELDS = ("preset_digest", "random_weights")
"""They say something of jobs with a user's own preset only."""
_SEGMENT_FIELDS = ("segments", "segment_prompts", "auto_extend", "seam_frames")
_LATER_FIELDS = ("last_image", "video", "reference_images", "acceleration", *_SEGMENT_FIELDS, "loras")
"""Added since: they count where they are given, so that a file without them keeps its fingerprint."""
_CACHE_SIZE = 4096

Template = tuple[object, ...]
"""Values of ``TEMPLATE_FIELDS``; jobs that agree on them share one."""


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One job of a submission. ``variant`` counts the line's jobs from 0: sweep outside, seeds inside."""

    line: int
    variant: int
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class Shot:
    """The jobs of a line that differ only in their seed. ``seeds`` None: one job, with a derived seed."""

    line: int
    variant: int
    prompt: str
    template: Template
    seeds: Sequence[int] | None = None
    custom_id: str | None = None
    numbered: bool = False
    """True if ``custom_id`` gets ``.variant`` at its end, because several jobs share it."""
    labels: dict[str, str] | None = None
    occurrence: int = 0
    """How many earlier lines of the file have this prompt."""

    def __len__(self) -> int:
        return 1 if self.seeds is None else len(self.seeds)

    def custom_id_of(self, offset: int) -> str | None:
        return f"{self.custom_id}.{self.variant + offset}" if self.numbered and self.custom_id else self.custom_id

    def job(self, offset: int) -> PlannedJob:
        variant = self.variant + offset
        seed = derive_seed(self.prompt, variant, self.occurrence) if self.seeds is None else self.seeds[offset]
        fields = {"prompt": self.prompt, "seed": seed, "custom_id": self.custom_id_of(offset)}
        # A copy of what the template's jobs share: every value was checked when the file was read, and checking, or
        # only making, a million specs field by field would take minutes.
        spec = _shared_spec(self.template).model_copy(update={**fields, "labels": dict(self.labels or {})})
        return PlannedJob(self.line, variant, spec)


@lru_cache(maxsize=_CACHE_SIZE)
def _shared_spec(template: Template) -> JobSpec:
    values: dict[str, Any] = dict(zip(TEMPLATE_FIELDS, template, strict=True))
    return JobSpec.model_construct(**values, prompt="", seed=0)


class PlannedJobs(Sequence[PlannedJob]):
    """The jobs, in the order of the file. Each is made anew when asked for: iterate, or slice, and keep few."""

    def __init__(self, shots: Sequence[Shot]) -> None:
        self._shots = shots
        self._starts = array("Q")
        self._count = 0
        for shot in shots:
            self._starts.append(self._count)
            self._count += len(shot)

    @property
    def shots(self) -> Sequence[Shot]:
        return self._shots

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[PlannedJob]:
        for shot in self._shots:
            for offset in range(len(shot)):
                yield shot.job(offset)

    @overload
    def __getitem__(self, index: int) -> PlannedJob: ...
    @overload
    def __getitem__(self, index: slice) -> list[PlannedJob]: ...
    def __getitem__(self, index: int | slice) -> PlannedJob | list[PlannedJob]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        at = index + self._count if index < 0 else index
        if not 0 <= at < self._count:
            raise IndexError(index)
        number = bisect_right(self._starts, at) - 1
        return self._shots[number].job(at - self._starts[number])


def alike(jobs: Sequence[PlannedJob]) -> Iterator[tuple[PlannedJob, int]]:
    """One job of each group that differs only in seeds, and how many these are: quick, however many there are."""
    if isinstance(jobs, PlannedJobs):
        for shot in jobs.shots:
            yield shot.job(0), len(shot)
    else:
        yield from ((job, 1) for job in jobs)


@dataclass(frozen=True, slots=True)
class Submission:
    """A whole prompt file, checked: all or nothing."""

    jobs: Sequence[PlannedJob]
    fingerprint: str
    """sha256 (hex) of every job's line, variant and values before seeds are derived."""
    inputs: Mapping[str, StoredInput]
    """The inputs by sha256 that must be in the store before the rows are written."""
    source_name: str
    scoring: FileScoring = NO_SCORING
    """The file's scoring options; not part of the fingerprint, but of the batch's options."""


def fingerprint_of(shots: Sequence[Shot]) -> str:
    """sha256 (hex) of the shots: equal content under equal settings gives equal digests, on any machine."""
    digest = hashlib.sha256(b"vgen-submission-1")
    templates: dict[Template, str] = {}
    for shot in shots:
        template = templates.get(shot.template)
        if template is None:
            if len(templates) >= _CACHE_SIZE:
                templates.clear()
            template = templates[shot.template] = sha256_hex(_template_json(shot.template))
        seeds = None if shot.seeds is None else list(shot.seeds)
        record = [shot.line, shot.variant, template, shot.prompt, seeds, shot.custom_id_of(0), shot.labels or {}]
        digest.update(canonical_json(record).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _template_json(template: Template) -> str:
    values = {name: _content(value) for name, value in zip(TEMPLATE_FIELDS, template, strict=True)}
    later = {name: values.pop(name) for name in _LATER_FIELDS}
    own_preset = {name: values.pop(name) for name in _OWN_PRESET_FIELDS}
    parts = list(values.values())
    # Without a preset of the user's own the JSON is as it was before there were any.
    if own_preset["preset_digest"] is not None:
        parts += own_preset.values()
    later_values = {name: value for name, value in later.items() if value and (name, value) != ("segments", 1)}
    return canonical_json([*parts, later_values] if later_values else parts)


def _content(value: object) -> object:
    """An input is its bytes: where it lay and what it was called do not matter."""
    if isinstance(value, InputRef):
        return value.sha256
    if isinstance(value, Acceleration):
        return value.given()
    if isinstance(value, LoraRef):
        return [value.file.sha256, value.scale, value.load_into_transformer_2]
    if isinstance(value, tuple) and value and isinstance(value[0], InputRef | LoraRef):
        return [_content(item) for item in value]
    return value
