"""Encoded segments between their encode steps: each is stored when it is made, and the last one joins them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import failpoints
from pipeline.encoding import join, sidecar
from pipeline.errors import NotFoundError, SegmentLostError
from pipeline.keys import joined_digest, media_key
from pipeline.presets import Preset
from pipeline.stages.base import StageContext, StepWork
from pipeline.stages.files import facts_of, file_sha256

_SUFFIX = "segment.mp4"


def store_part(work: StepWork, context: StageContext, path: Path) -> dict[str, Any]:
    """Upload a segment's video, so that whoever encodes the last one can join it; key, sha256 and size."""
    facts = facts_of(path)
    key = media_key(work.job_id, facts["sha256"], _SUFFIX)
    failpoints.hit("upload", "part")
    context.storage.put_file(key, path, sha256=facts["sha256"], content_type="video/mp4")
    path.unlink()
    return {"key": key, **facts}


def join_parts(
    work: StepWork, context: StageContext, preset: Preset, video: Path
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Put the earlier segments before the last one's ``video``, in place.

    Returns what the stages recorded of the whole clip, by stage name, and what generate recorded of each segment.

    Raises:
        SegmentLostError: an earlier segment is not in the store, or not what was stored.
        RetryableError: as ``pipeline.encoding.join.join`` and the store raise.
    """
    generated = [*(made["generate"] for made in work.earlier), work.outputs["generate"]]
    paths = [video.with_suffix(f".part{segment}") for segment in range(len(work.earlier))]
    joined = video.with_suffix(".joined")
    try:
        for segment, (made, path) in enumerate(zip(work.earlier, paths, strict=True)):
            context.check()
            _fetch(segment, made["encode"]["part"], path, context)
        counts = [made["num_frames"] for made in generated]
        metadata = container_metadata(work, preset)
        join.join([*paths, video], counts, joined, metadata=metadata, check=context.check)
        joined.replace(video)
    finally:
        for path in (*paths, joined):
            path.unlink(missing_ok=True)
    whole = {
        **generated[-1],
        "prompt": generated[0]["prompt"],
        "num_frames": sum(counts),
        "frames_sha256": joined_digest([made["frames_sha256"] for made in generated]),
    }
    return {**work.outputs, "generate": whole}, generated


def container_metadata(work: StepWork, preset: Preset) -> dict[str, str]:
    """What is written into the video file of the clip, or of a segment of it."""
    generated = work.earlier[0]["generate"] if work.earlier else work.outputs["generate"]
    prompt = generated.get("prompt", work.spec.prompt)
    return sidecar.container_metadata(work.job_id, work.spec, preset, prompt)


def _fetch(segment: int, part: dict[str, Any], path: Path, context: StageContext) -> None:
    try:
        context.storage.download(part["key"], path)
    except NotFoundError:
        raise _lost(segment, part, "is not in the store") from None
    found = file_sha256(path, context.check)
    if found != part["sha256"]:
        raise _lost(segment, part, f"has sha256 {found}, not {part['sha256']}")


def _lost(segment: int, part: dict[str, Any], why: str) -> SegmentLostError:
    message = f"the video of segment {segment + 1} ({part['key']}) {why}"
    return SegmentLostError(message, code="segment_lost", segment=segment)
