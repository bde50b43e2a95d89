"""Encode: raw frames of the hand-off become a video, its pictures and its sidecar, and go to the store."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import failpoints
from pipeline.encoding import ffmpeg, join, pictures, sidecar
from pipeline.encoding.probe import VideoFacts, probe, verify, verify_sound
from pipeline.errors import RetryableError
from pipeline.files.digests import facts_of, file_sha256
from pipeline.files.object_names import SUFFIXES
from pipeline.handoff import sound_path
from pipeline.media.packets import packets_sha256
from pipeline.outputs import PACKETS, EncodeOutput, GenerateOutput, StageOutputs
from pipeline.presets import Preset, load_library
from pipeline.stages import joining
from pipeline.stages.continuation import keep_last_frames
from pipeline.stages.segments import container_metadata, finish_clip, is_made_of_parts, store_part
from pipeline.stages.uploads import upload_files
from pipeline.work import ContinuationRef, StageContext, StageResult, StepWork

_SAMPLE_BYTES = 4


@dataclass(frozen=True, slots=True)
class _Frames:
    """The frames that the generate stage handed over: a raw file of F × H × W × 3 uint8, RGB."""

    path: Path
    generated: GenerateOutput

    @property
    def raw_sound(self) -> ffmpeg.Sound | None:
        sound = self.generated.sound
        return None if sound is None else ffmpeg.Sound(sound_path(self.path), sound.sample_rate, sound.channels)

    @property
    def sizes(self) -> dict[str, int]:
        made = self.generated
        return {"width": made.width, "height": made.height, "num_frames": made.num_frames}


def run(work: StepWork, context: StageContext) -> StageResult[EncodeOutput]:
    """Make and upload the clip's four files.

    Of a clip of several segments only the last has them; the others have their encoded segment (``part``) stored,
    which the last joins. The last job of a session joins clips (``pipeline.stages.joining``). Files are named by this
    attempt, and objects by their own digests: an attempt that lost its lease can neither touch another's files nor
    change an object that is already recorded.

    Raises:
        RetryableError: code ``handoff_lost`` (the frames are gone), ``frames_corrupt``, ``encode_mismatch``, or as
            ``pipeline.encoding.ffmpeg.encode`` and the store raise.
        SegmentLostError: an earlier segment's encoded file is gone.
        RefusedError: the encode options cannot work; code ``preset_missing`` or ``preset_differs``.
        StoppedError: asked to stop.
    """
    if work.joins:
        return joining.run(work, context)
    frames = _Frames(context.handoff.here(work.outputs.generated.frames_path), work.outputs.generated)
    folder = frames.path.parent
    paths = {kind: folder / f"{frames.path.stem}.e{work.attempt}.{suffix}" for kind, suffix in SUFFIXES.items()}
    try:
        context.handoff.drop_links(frames.path)
        _check_frames(frames, context.check)
        preset = load_library(context.settings.effective_presets_dir).pinned(work.spec.preset, work.spec.preset_digest)
        facts = _encode(work, context, preset, frames, paths["video"])
        if work.segment < work.spec.segments - 1:
            part = store_part(work, context, paths["video"])
            output = EncodeOutput(part=part, probe=facts.as_json())
            state = None
        else:
            outputs, segments = work.outputs, None
            if is_made_of_parts(work.spec):
                outputs, segments = finish_clip(work, context, preset, paths["video"])
                sound = outputs.generated.sound
                facts = _verified(work, context, paths["video"], frames.sizes | {"num_frames": work.spec.clip_frames})
                verify_sound(facts, duration_s=None if sound is None else sound.num_samples / sound.sample_rate)
            _make_pictures(work, context, frames, paths)
            _write_sidecar(work, preset, outputs, segments, facts, paths)
            packets = packets_sha256(paths["video"], context.check)
            output = EncodeOutput(**upload_files(work, context, paths), probe={**facts.as_json(), PACKETS: packets})
            if work.options.score is not None:  # for the score stage, on this host or not
                output = output.model_copy(update={"files": {kind: str(path) for kind, path in paths.items()}})
            state = _state(work, context, preset, frames)
    except BaseException as error:
        for path in paths.values():
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _translate(error) from error
        raise
    leave = context.handoff.empty if output.files else context.handoff.free
    return StageResult(output, continuation=state, after_commit=lambda: leave(frames.path))


def _check_frames(frames: _Frames, check: Callable[[], None]) -> None:
    made = frames.generated
    _check_raw(frames.path, made.num_frames * made.height * made.width * 3, made.frames_sha256, check)
    if made.sound is not None:
        size = made.sound.num_samples * made.sound.channels * _SAMPLE_BYTES
        _check_raw(sound_path(frames.path), size, made.sound.sha256, check)


def _check_raw(path: Path, expected_bytes: int, sha256: str, check: Callable[[], None]) -> None:
    if not path.is_file():
        raise RetryableError(f"the frames at {path} are gone", code="handoff_lost")
    size = path.stat().st_size
    if size != expected_bytes:
        raise RetryableError(f"{path} holds {size} bytes, not {expected_bytes}", code="frames_corrupt")
    actual = file_sha256(path, check)
    if actual != sha256:
        raise RetryableError(f"{path} has sha256 {actual}, but {sha256} was generated", code="frames_corrupt")


def _encode(work: StepWork, context: StageContext, preset: Preset, frames: _Frames, path: Path) -> VideoFacts:
    """Write the frames' video; returns what it was found to hold. The sound of a part waits for the others'."""
    sound = None if is_made_of_parts(work.spec) else frames.raw_sound
    ffmpeg.encode(
        frames.path,
        path,
        **frames.sizes,
        fps=work.spec.fps,
        options=work.options.encode,
        metadata=container_metadata(work, preset),
        check=context.check,
        timeout_s=context.settings.encode.timeout_s,
        sound=sound,
    )
    failpoints.hit("encode_write")
    facts = _verified(work, context, path, frames.sizes)
    verify_sound(facts, duration_s=None if sound is None else work.spec.seconds)
    return facts


def _verified(work: StepWork, context: StageContext, path: Path, sizes: dict[str, int]) -> VideoFacts:
    facts = probe(path, context.check)
    verify(facts, **sizes, fps=work.spec.fps)
    return facts


def _make_pictures(work: StepWork, context: StageContext, frames: _Frames, paths: dict[str, Path]) -> None:
    if work.spec.segments == 1 and work.spec.begins_with is None:
        pictures.make_poster(frames.path, paths["poster"], **frames.sizes)
        pictures.make_strip(frames.path, paths["strip"], **frames.sizes)
        return
    # The raw frames of the other parts are gone, or on another host.
    total = work.spec.clip_frames
    indices = [pictures.poster_index(total), *pictures.strip_indices(total)]
    poster, *strip = join.decoded_frames(paths["video"], indices, context.check)
    pictures.save_poster(poster, paths["poster"])
    pictures.save_strip(strip, paths["strip"])


def _write_sidecar(
    work: StepWork,
    preset: Preset,
    outputs: StageOutputs,
    segments: Sequence[GenerateOutput] | None,
    facts: VideoFacts,
    paths: dict[str, Path],
) -> None:
    content = sidecar.build_sidecar(
        job_id=work.job_id,
        batch_id=work.batch_id,
        line=work.line,
        roll=work.roll,
        segment=work.segment,
        spec=work.spec,
        preset=preset,
        encode=work.options.encode,
        outputs=outputs,
        video=facts.as_json(),
        files={kind: facts_of(paths[kind]) for kind in ("video", "poster", "strip")},
        segments=segments,
    )
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    paths["sidecar"].write_text(text + "\n", "utf-8")


def _state(work: StepWork, context: StageContext, preset: Preset, frames: _Frames) -> ContinuationRef | None:
    """Return the state that an extending clip starts from; None if the model cannot go on, or made too few frames.

    A clip of a session has left it when it was generated.
    """
    if work.options.session is not None:
        return None
    if preset.continuation is None or frames.generated.num_frames < preset.continuation.frames:
        return None
    return keep_last_frames(work, context, frames.path, frames.generated, preset.continuation.frames)


def _translate(error: OSError) -> RetryableError:
    if isinstance(error, FileNotFoundError):
        return RetryableError(f"{error.filename} is gone", code="handoff_lost")
    code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "handoff_unavailable"
    return RetryableError(f"{error.filename or 'hand-off folder'}: {error.strerror}", code=code)
