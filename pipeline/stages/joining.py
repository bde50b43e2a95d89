"""Joins the published clips of a session to one, without generating or encoding."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.digests import joined_digest
from pipeline.encoding import join, pictures, sidecar
from pipeline.encoding import sound as sounds
from pipeline.encoding.ffmpeg import Sound
from pipeline.encoding.probe import VideoFacts, has_sound, probe, verify, verify_sound
from pipeline.errors import NotFoundError, RefusedError
from pipeline.files.digests import facts_of, file_sha256
from pipeline.files.object_names import SUFFIXES
from pipeline.outputs import EncodeOutput, ObjectRef, SoundOutput
from pipeline.presets import Preset, load_library
from pipeline.stages.uploads import upload_files
from pipeline.work import JoinedClip, StageContext, StageResult, StepWork


def run(work: StepWork, context: StageContext) -> StageResult[EncodeOutput]:
    """Join ``work.joins`` and upload the clip's four files: the packets of their videos, one after the other.

    The clip's raw frames are those of its parts, in order, and so is their digest (``joined_digest``).

    Raises:
        RefusedError: code ``joined_clip_lost``: a part's file is gone from the store, or damaged.
        RetryableError: as ``pipeline.encoding.join.join``, ``pipeline.encoding.sound`` and the store raise.
        StoppedError: asked to stop.
    """
    preset = load_library(context.settings.effective_presets_dir).pinned(work.spec.preset, work.spec.preset_digest)
    with tempfile.TemporaryDirectory(prefix="vgen-join-") as folder:
        paths = {kind: Path(folder) / f"clip.{suffix}" for kind, suffix in SUFFIXES.items()}
        parts = [_fetch(clip, Path(folder) / f"part{place}.mp4", context) for place, clip in enumerate(work.joins)]
        metadata = sidecar.container_metadata(work.job_id, work.spec, preset, work.joins[0].outputs.generated.prompt)
        join.join(parts, _counts(work), paths["video"], metadata=metadata, check=context.check)
        sound = _add_sound(work, context, parts, paths["video"], metadata)
        facts = _verified(work, context, paths["video"], sound)
        _make_pictures(work, context, paths)
        _write_sidecar(work, preset, facts, sound, paths)
        return StageResult(EncodeOutput(**upload_files(work, context, paths), probe=facts.as_json()))


def _counts(work: StepWork) -> list[int]:
    return [clip.outputs.generated.num_frames for clip in work.joins]


def _fetch(clip: JoinedClip, path: Path, context: StageContext) -> Path:
    context.check()
    ref = clip.outputs.encoded.file("video")
    try:
        context.storage.download(ref.key, path)
    except NotFoundError:
        raise _lost(clip, ref, "is not in the store") from None
    digest = file_sha256(path, context.check)
    if digest != ref.sha256:
        raise _lost(clip, ref, f"has sha256 {digest}, not {ref.sha256}")
    return path


def _lost(clip: JoinedClip, ref: ObjectRef, why: str) -> RefusedError:
    return RefusedError(f"the clip of job {clip.job_id} ({ref.key}) {why}", code="joined_clip_lost")


def _add_sound(
    work: StepWork, context: StageContext, parts: list[Path], video: Path, metadata: dict[str, str]
) -> SoundOutput | None:
    """Put the parts' sounds beside the joined pictures, as one track that is encoded once."""
    pieces, begins, counts = [], 0, _counts(work)
    for place, (part, count) in enumerate(zip(parts, counts, strict=True)):
        if has_sound(part):
            raw = part.with_suffix(f".sound{place}")
            rate, channels = sounds.decode(part, raw, fps=work.spec.fps, num_frames=count, check=context.check)
            pieces.append(sounds.Piece(raw, begins, rate, channels))
        begins += count
    if not pieces:
        return None
    mixed, out = video.with_suffix(".mixed"), video.with_suffix(".sounding")
    facts = sounds.mix(pieces, mixed, fps=work.spec.fps, num_frames=sum(counts), check=context.check)
    sounds.add(
        video,
        Sound(mixed, facts["sample_rate"], facts["channels"]),
        out,
        metadata=metadata,
        check=context.check,
        timeout_s=context.settings.encode.timeout_s,
    )
    join.check_seams(out, counts, context.check)
    out.replace(video)
    return SoundOutput(**facts)


def _verified(work: StepWork, context: StageContext, video: Path, sound: SoundOutput | None) -> VideoFacts:
    facts, spec = probe(video, context.check), work.spec
    verify(facts, width=spec.width, height=spec.height, num_frames=sum(_counts(work)), fps=spec.fps)
    verify_sound(facts, duration_s=None if sound is None else sound.num_samples / sound.sample_rate)
    return facts


def _make_pictures(work: StepWork, context: StageContext, paths: dict[str, Path]) -> None:
    total = sum(_counts(work))
    indices = [pictures.poster_index(total), *pictures.strip_indices(total)]
    poster, *strip = join.decoded_frames(paths["video"], indices, context.check)
    pictures.save_poster(poster, paths["poster"])
    pictures.save_strip(strip, paths["strip"])


def _write_sidecar(
    work: StepWork, preset: Preset, facts: VideoFacts, sound: SoundOutput | None, paths: dict[str, Path]
) -> None:
    """The sidecar of a clip of several segments, in which each segment also names the job that made it."""
    made = [clip.outputs.generated for clip in work.joins]
    whole = made[-1].model_copy(
        update={
            "prompt": made[0].prompt,
            "num_frames": sum(_counts(work)),
            "frames_sha256": joined_digest([each.frames_sha256 for each in made]),
            "sound": sound,
        }
    )
    content: dict[str, Any] = sidecar.build_sidecar(
        job_id=work.job_id,
        batch_id=work.batch_id,
        line=work.line,
        roll=work.roll,
        segment=work.segment,
        spec=work.spec,
        preset=preset,
        encode=work.options.encode,
        outputs=replace(work.joins[0].outputs, generate=whole),
        video=facts.as_json(),
        files={kind: facts_of(paths[kind]) for kind in ("video", "poster", "strip")},
        segments=made,
    )
    for segment, clip in zip(content["segments"], work.joins, strict=True):
        segment.update(seed=clip.spec.seed, job_id=clip.job_id)
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    paths["sidecar"].write_text(text + "\n", "utf-8")
