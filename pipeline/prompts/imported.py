"""Resolves a job specification from an untrusted file by the rules of a prompt file's line.

The specification is turned into the fields of a line, which pass the same parsers, the same rules of the preset and
the same checks of inputs. What a line cannot say (priority excepted, which is the site's) is checked here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pipeline.acceleration import PLAIN
from pipeline.errors import InputError, Problem
from pipeline.presets import Library, load_library
from pipeline.prompts.fields import PARSERS
from pipeline.prompts.layers import LayerReader, Values
from pipeline.prompts.numbers import show
from pipeline.prompts.problems import Problems
from pipeline.prompts.resolve import Resolver
from pipeline.prompts.segments import contradictions
from pipeline.prompts.stored_inputs import StoredInputs
from pipeline.prompts.submission import Shot
from pipeline.settings import Settings
from pipeline.spec import MAX_SEGMENTS, Beginning, JobSpec, LoraRef

MAX_DIGESTS = 100_000
"""The most segments of the clip that another begins with; films are extended again and again."""
_NEEDED = ("prompt", "seed", "preset", "width", "height", "num_frames", "fps", "num_inference_steps", "guidance_scale")
_AS_THEY_ARE = (*_NEEDED, *("negative_prompt", "guidance_scale_2", "custom_id", "labels", "enhance", "auto_extend"))
_INPUTS = ("image", "last_image", "video")
_ABSENT = {"negative_prompt", "guidance_scale_2"}
"""Fields whose null means that the clip was made without, whatever the preset's default is by now."""
_REVISION_CHARS = 256
Report = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Imported:
    """A checked specification, and a sentence on each thing of the file that does not hold here."""

    spec: JobSpec
    notices: tuple[str, ...]


def resolve_specification(
    raw: object, *, file: str, settings: Settings, inputs: StoredInputs, continues: bool = False
) -> Imported:
    """Check a specification (``JobSpec`` as JSON) and make a job of it.

    Args:
        raw: as it was read; nothing of it is believed.
        file: for messages.
        settings: give the presets.
        inputs: find what it names in the store.
        continues: it is wanted for its sizes and its model only, to go on from frames: its inputs are left out.

    Raises:
        InputError: with every mistake, each with the file and the field.
    """
    problems = Problems(file)

    def report(field: str, message: str) -> None:
        problems.add(message, field=f"request.{field}")

    if not isinstance(raw, Mapping):
        raise InputError([Problem(f"{show(raw)} is not a mapping of fields to values", file, field="request")])
    request = {str(name): value for name, value in raw.items()}
    if continues:
        request = {name: value for name, value in request.items() if name not in {*_INPUTS, "reference_images"}}
    for name in sorted(request.keys() - JobSpec.model_fields.keys()):
        report(name[:80], "unknown field")
    for name in _NEEDED:
        if request.get(name) is None:
            report(name, "is missing")
    fields = line_fields(request, inputs, report)
    values, _ = LayerReader(inputs).read(fields, False, report)
    problems.raise_if_any()
    library = load_library(settings.effective_presets_dir)
    spec = _job(request, values, library, inputs, continues, report)
    problems.raise_if_any()
    assert spec is not None
    return Imported(spec, _notices(request))


def line_fields(request: Mapping[str, Any], inputs: StoredInputs, report: Report) -> dict[str, object]:
    """The fields of a line that asks for the same; null and empty lists are not given."""
    fields: dict[str, object] = {name: request[name] for name in _AS_THEY_ARE if request.get(name) is not None}
    if request.get("gpu") not in (None, []):
        fields["gpu"] = request["gpu"]
    fields["acceleration"] = _acceleration(request.get("acceleration"))
    for name in _INPUTS:
        if request.get(name) is not None:
            _admit(name, request[name], inputs, fields, report)
    pictures = request.get("reference_images")
    if pictures not in (None, []):
        if isinstance(pictures, list):
            line: dict[str, object] = {}
            for number, picture in enumerate(pictures):
                _admit(f"reference_images.{number}", picture, inputs, line, report)
            fields["reference_images"] = list(line.values())
        else:
            report("reference_images", f"{show(pictures)} is not a list")
    if request.get("loras") not in (None, []):
        fields["loras"] = _loras(request["loras"], inputs, report)
    fields["segments"] = _segments(request, report)
    return fields


def _admit(name: str, raw: object, inputs: StoredInputs, fields: dict[str, object], report: Report) -> None:
    try:
        fields[name] = inputs.admit(raw)
    except ValueError as error:
        report(name, str(error))


def _acceleration(raw: object) -> object:
    """Every option, so that the preset's own, which may have changed, adds none."""
    return {**PLAIN.model_dump(), **raw} if isinstance(raw, Mapping) else PLAIN.model_dump() if raw is None else raw


def _loras(raw: object, inputs: StoredInputs, report: Report) -> list[object]:
    """Return the LoRAs as a line's field has them, with digests as their paths."""
    if not isinstance(raw, list):
        report("loras", f"{show(raw)} is not a list")
        return []
    loras: list[object] = []
    for number, lora in enumerate(raw):
        field, field_names = f"loras.{number}", LoraRef.model_fields.keys()
        if not isinstance(lora, Mapping) or lora.keys() - field_names:
            report(field, f"{show(lora)} is not a mapping with {', '.join(field_names)}")
            continue
        fields: dict[str, object] = {}
        _admit(f"{field}.file", lora.get("file"), inputs, fields, report)
        for name in ("repo", "revision"):
            text = lora.get(name)
            if text is not None and not (isinstance(text, str) and len(text) <= _REVISION_CHARS and text.isprintable()):
                report(f"{field}.{name}", f"{show(text)} is not printable text of at most {_REVISION_CHARS} characters")
        loras += [{"path": path, **_acting(lora)} for path in fields.values()]
    return loras


def _acting(lora: Mapping[str, object]) -> dict[str, object]:
    return {name: lora[name] for name in ("scale", "load_into_transformer_2") if name in lora}


def _segments(request: Mapping[str, Any], report: Report) -> object:
    """A count, or the list of prompts that the count is of."""
    count, prompts = request.get("segments", 1), request.get("segment_prompts")
    if prompts in (None, []):
        return 1 if count is None else count
    if not isinstance(prompts, list):
        report("segment_prompts", f"{show(prompts)} is not a list of prompts")
    elif count != len(prompts) or isinstance(count, bool):
        report("segment_prompts", f"{len(prompts)} prompts are given for {show(count)} segments")
    elif prompts[0] != request.get("prompt"):
        report("segment_prompts", f"begins with {show(prompts[0])}, but prompt is {show(request.get('prompt'))}")
    else:
        return prompts
    return 1


def _job(
    request: Mapping[str, Any], values: Values, library: Library, inputs: StoredInputs, continues: bool, report: Report
) -> JobSpec | None:
    """The job that the checked values ask for; None where something is wrong, which was reported."""
    base: Values = {"enhance": False, "gpu": (), "priority": 0}
    extends = _extends(request, report)
    values = {**base, **values, "extends": extends or ("another" if continues else None)}
    template, mistakes = Resolver(library).resolve(values)
    mistakes = (*mistakes, *contradictions(values))
    for field, message in mistakes:
        report(field, message)
    beginning = None if continues else _begins_with(request, extends, inputs, report)
    if mistakes or (beginning is None and request.get("begins_with") is not None and not continues):
        return None
    seam = library.presets[str(values["preset"])].continuation
    if extends is not None and seam is None:
        report("extends", f"is given, but preset {values['preset']!r} cannot continue from given frames")
        return None
    shot = Shot(
        line=1,
        variant=0,
        prompt=cast(str, values["prompt"]),
        template=template,
        seeds=cast("tuple[int, ...]", values["seeds"]),
        custom_id=cast("str | None", values.get("custom_id")),
        labels=cast("dict[str, str] | None", values.get("labels")),
    )
    spec = shot.job(0).spec
    changes: dict[str, Any] = {name: None for name in _ABSENT if request.get(name) is None}
    if extends is not None and seam is not None:
        changes |= {"extends": extends, "begins_with": beginning, "seam_frames": seam.frames}
    changes["loras"] = _with_sources(spec.loras, request.get("loras") or [])
    return JobSpec.model_validate({**spec.model_dump(), **{n: _plain(v) for n, v in changes.items()}})


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(item.model_dump() for item in value)
    return value.model_dump() if isinstance(value, Beginning) else value


def _with_sources(loras: tuple[LoraRef, ...], raw: list[Mapping[str, Any]]) -> tuple[LoraRef, ...]:
    """Return where each came from, for people; its file is this site's."""
    return tuple(
        lora.model_copy(update={"repo": entry.get("repo"), "revision": entry.get("revision")})
        for lora, entry in zip(loras, raw, strict=True)
    )


def _extends(request: Mapping[str, Any], report: Report) -> str | None:
    raw = request.get("extends")
    if raw is None:
        return None
    try:
        return str(PARSERS["custom_id"](raw, False))
    except ValueError as error:
        report("extends", str(error))
        return None


def _begins_with(
    request: Mapping[str, Any], extends: str | None, inputs: StoredInputs, report: Report
) -> Beginning | None:
    """The clip that it begins with, which must be in the store."""
    raw = request.get("begins_with")
    if raw is None:
        return None
    if extends is None:
        report("begins_with", "is given without extends, the job whose clip it is")
    elif not isinstance(raw, Mapping) or raw.keys() != {"video", "frames_sha256"}:
        report("begins_with", f"{show(raw)} is not a mapping with video and frames_sha256")
    else:
        digests = raw["frames_sha256"]
        if not isinstance(digests, list) or not 1 <= len(digests) <= MAX_DIGESTS or not all(map(_is_digest, digests)):
            report("begins_with.frames_sha256", f"{show(digests)} is not a list of sha256 digests")
            return None
        try:
            video = inputs.resolve_undecoded(inputs.admit(raw["video"]))
        except ValueError as error:
            report("begins_with.video", str(error))
            return None
        if video.num_frames is None or not 1 <= video.num_frames <= MAX_SEGMENTS * 1_000_000:
            report("begins_with.video", f"num_frames: {video.num_frames} is not a count of frames")
            return None
        return Beginning(video=video, frames_sha256=tuple(digests))
    return None


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _notices(request: Mapping[str, Any]) -> tuple[str, ...]:
    priority = request.get("priority", 0)
    if priority in (0, None) and not isinstance(priority, bool):
        return ()
    return (f"its priority {show(priority)} is left out: the job gets 0",)
