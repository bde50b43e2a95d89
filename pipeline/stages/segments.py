"""Stores each segment's encoded file; the last segment's step joins them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline import failpoints
from pipeline.digests import joined_digest
from pipeline.encoding import join, sidecar
from pipeline.encoding import sound as sounds
from pipeline.encoding.ffmpeg import Sound
from pipeline.encoding.probe import has_sound
from pipeline.errors import NotFoundError, RefusedError, RetryableError, SegmentLostError
from pipeline.files.digests import facts_of, file_sha256
from pipeline.files.object_names import media_key
from pipeline.handoff import sound_path
from pipeline.outputs import GenerateOutput, ObjectRef, Part, SoundOutput, SoundPart, StageOutputs
from pipeline.presets import Preset
from pipeline.spec import Beginning, JobSpec
from pipeline.work import StageContext, StepWork

_SUFFIX = "segment.mp4"
_SOUND_SUFFIX = "segment.sound"


def is_made_of_parts(spec: JobSpec) -> bool:
    """Return whether finishing the clip needs more than its own frames and sound, or less: a segment repeats some."""
    return spec.segments > 1 or spec.extends is not None


def store_part(work: StepWork, context: StageContext, path: Path) -> Part:
    """Upload a segment's video and raw sound, so that whoever encodes the last one can join them."""
    facts = facts_of(path)
    key = media_key(work.job_id, facts["sha256"], _SUFFIX)
    failpoints.hit("upload", "part")
    context.storage.put_file(key, path, sha256=facts["sha256"], content_type="video/mp4")
    part = Part(key=key, **facts)
    if (sound := work.outputs.generated.sound) is not None:
        raw = sound_path(context.handoff.here(work.outputs.generated.frames_path))
        key = media_key(work.job_id, sound.sha256, _SOUND_SUFFIX)
        context.storage.put_file(key, raw, sha256=sound.sha256, content_type="application/octet-stream")
        sound_facts = sound.model_dump(include={"sha256", "sample_rate", "channels"})
        part = part.model_copy(update={"sound": SoundPart(key=key, size=raw.stat().st_size, **sound_facts)})
    path.unlink()
    return part


@dataclass(slots=True)
class _Parts:
    """The parts that the clip is joined from, in order."""

    videos: list[Path] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    sounds: list[sounds.Piece] = field(default_factory=list)


def finish_clip(
    work: StepWork, context: StageContext, preset: Preset, video: Path
) -> tuple[StageOutputs, list[GenerateOutput] | None]:
    """Put what goes before the last segment's ``video`` before it, and all parts' sound beside it, in place.

    Returns what the stages recorded of the whole clip, and what generate recorded of each segment, where there are
    several.

    Raises:
        SegmentLostError: an earlier segment is not in the store, or not what was stored.
        RefusedError: code ``beginning_lost``; or ``beginning_unfit``, where the clip that this one begins with was
            encoded in another way.
        RetryableError: as ``pipeline.encoding.join.join``, ``pipeline.encoding.sound`` and the store raise.
    """
    generated = [outputs.generated for outputs in (*work.earlier, work.outputs)]
    try:
        parts = _gather(work, context, video)
        metadata = container_metadata(work, preset)
        if len(parts.videos) > 1:
            joined = video.with_suffix(".part-joined")
            _join(work, parts, joined, metadata, context)
            joined.replace(video)
        sound = _add_sound(work, context, parts, video, metadata)
    finally:
        for path in video.parent.glob(f"{video.stem}.part*"):
            path.unlink(missing_ok=True)
    before = () if work.spec.begins_with is None else work.spec.begins_with.frames_sha256
    whole = generated[-1].model_copy(
        update={
            "prompt": generated[0].prompt,
            "num_frames": sum(parts.counts),
            "frames_sha256": joined_digest([*before, *(segment.frames_sha256 for segment in generated)]),
            "sound": sound,
        }
    )
    return replace(work.outputs, generate=whole), generated if work.spec.segments > 1 else None


def _gather(work: StepWork, context: StageContext, video: Path) -> _Parts:
    """Every part on this host, beside the last one's video."""
    parts, spec = _Parts(), work.spec
    if spec.begins_with is not None:
        path = video.with_suffix(".part-before")
        _fetch_beginning(spec.begins_with, path, context)
        parts.videos.append(path)
        parts.counts.append(spec.frames_before)
        if has_sound(path):
            raw = video.with_suffix(".part-before-sound")
            rate, channels = sounds.decode(path, raw, fps=spec.fps, num_frames=spec.frames_before, check=context.check)
            parts.sounds.append(sounds.Piece(raw, 0, rate, channels))
    for segment, outputs in enumerate((*work.earlier, work.outputs)):
        context.check()
        sound = outputs.generated.sound
        if segment < len(work.earlier):
            path, raw = video.with_suffix(f".part{segment}"), video.with_suffix(f".part{segment}-sound")
            part = outputs.encoded.part
            assert part is not None, "only the last segment has the clip's files"
            _fetch(segment, part, path, context)
            if part.sound is not None:
                _fetch(segment, part.sound, raw, context)
        else:
            path, raw = video, sound_path(context.handoff.here(outputs.generated.frames_path))
        if sound is not None:
            repeated = spec.seam_frames if spec.continues(segment) else 0
            begins = sum(parts.counts) - repeated
            parts.sounds.append(sounds.Piece(raw, begins, sound.sample_rate, sound.channels))
        parts.videos.append(path)
        parts.counts.append(outputs.generated.num_frames)
    return parts


def _join(work: StepWork, parts: _Parts, joined: Path, metadata: dict[str, str], context: StageContext) -> None:
    try:
        join.join(parts.videos, parts.counts, joined, metadata=metadata, check=context.check)
    except RetryableError as error:
        if work.spec.begins_with is None or error.code != "encode_mismatch":
            raise
        raise RefusedError(
            f"the clip cannot begin with {work.spec.extends}: {error}; `vgen extend --part` makes one of what is new",
            code="beginning_unfit",
        ) from error


def _add_sound(
    work: StepWork, context: StageContext, parts: _Parts, video: Path, metadata: dict[str, str]
) -> SoundOutput | None:
    """Mix the parts' sounds and put them beside the pictures; return the sidecar's facts about them."""
    if not parts.sounds:
        return None
    raw, out = video.with_suffix(".part-mixed"), video.with_suffix(".part-sounding")
    facts = sounds.mix(parts.sounds, raw, fps=work.spec.fps, num_frames=sum(parts.counts), check=context.check)
    sounds.add(
        video,
        Sound(raw, facts["sample_rate"], facts["channels"]),
        out,
        metadata=metadata,
        check=context.check,
        timeout_s=context.settings.encode.timeout_s,
    )
    join.check_seams(out, parts.counts, context.check)
    out.replace(video)
    return SoundOutput(**facts)


def container_metadata(work: StepWork, preset: Preset) -> dict[str, str]:
    """Return what is written into the video file of the clip, or of a segment of it."""
    first = work.earlier[0] if work.earlier else work.outputs
    return sidecar.container_metadata(work.job_id, work.spec, preset, first.generated.prompt)


def _fetch_beginning(beginning: Beginning, path: Path, context: StageContext) -> None:
    ref = beginning.video
    try:
        context.storage.download(ref.key, path)
    except NotFoundError as error:
        raise RefusedError(
            f"begins_with: {ref.name!r} ({ref.key}) is not in the store", code="beginning_lost"
        ) from error
    digest = file_sha256(path, context.check)
    if digest != ref.sha256:
        raise RefusedError(f"begins_with: {ref.key} has sha256 {digest}: it is damaged", code="beginning_lost")


def _fetch(segment: int, part: ObjectRef, path: Path, context: StageContext) -> None:
    try:
        context.storage.download(part.key, path)
    except NotFoundError:
        raise _lost(segment, part, "is not in the store") from None
    digest = file_sha256(path, context.check)
    if digest != part.sha256:
        raise _lost(segment, part, f"has sha256 {digest}, not {part.sha256}")


def _lost(segment: int, part: ObjectRef, why: str) -> SegmentLostError:
    message = f"the encoded file of segment {segment + 1} ({part.key}) {why}"
    return SegmentLostError(message, code="segment_lost", segment=segment)
