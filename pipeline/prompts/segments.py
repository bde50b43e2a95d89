"""The fields of a clip of several segments: a count, a list of prompts, or a length beyond the model's."""

from collections.abc import Callable
from typing import cast

from pipeline.presets import Preset
from pipeline.spec import MAX_SEGMENTS

Values = dict[str, object]
Mistake = tuple[str, str]
_INPUTS = ("last_image", "video", "reference_images")


def unite_segments(values: Values, report: Callable[[str, str], None]) -> None:
    """A list of prompts becomes their number, the clip's prompt (the first) and ``segment_prompts``."""
    segments = values.get("segments")
    if not isinstance(segments, tuple):
        return
    if values.get("prompt", segments[0]) != segments[0]:
        report("segments", "a list begins with the clip's prompt; leave 'prompt' out, or write it first in the list")
    if values.get("auto_extend"):
        report("auto_extend", "cannot be given with a list of prompts; give a count")
    values["prompt"], values["segments"], values["segment_prompts"] = segments[0], len(segments), segments


def contradictions(values: Values) -> list[Mistake]:
    """Return the fields that contradict each other once all layers are merged: no text may exist twice."""
    prompts = cast("tuple[str, ...]", values.get("segment_prompts") or ())
    if not prompts:
        return []
    problems = []
    if values.get("prompt") != prompts[0]:
        message = (
            f"{values.get('prompt')!r:.80} differs from the first prompt in the list of segments, {prompts[0]!r:.80}"
        )
        problems.append(("prompt", f"{message}; leave it out, or write it first in the list"))
    if values.get("segments") != len(prompts):
        problems.append(
            ("segments", f"{values.get('segments')} is given together with a list of {len(prompts)} prompts; give one")
        )
    if values.get("auto_extend"):
        problems.append(("auto_extend", "cannot be given with a list of prompts; give a count"))
    return problems


def split_length(values: Values, preset: Preset, frames: int) -> tuple[int, int] | None:
    """(frames of each, segments) that make a clip of exactly so many frames, longer than the model makes at once.

    The fewest equal segments, at most twice as many as it takes. None where there are none, or the preset cannot go on.
    """
    continuation, rule = preset.continuation, preset.frames
    if continuation is None or frames <= rule.maximum or values.get("segments") is not None:
        return None
    seam = continuation.frames
    fewest = -(-(frames - seam) // (rule.maximum - seam))
    for count in range(fewest, min(2 * fewest, MAX_SEGMENTS) + 1):
        each, remainder = divmod(frames - seam, count)
        if remainder == 0 and rule.allows(each + seam) and each >= seam:
            return each + seam, count
    return None


def check_segments(full: Values, preset: Preset) -> list[Mistake]:
    """Return what stands against the segments that are asked for; sets ``seam_frames``."""
    count, problems = cast(int, full["segments"]), []
    if full["auto_extend"] and count == 1:
        problems.append(("auto_extend", "is given, but the clip has one segment; give 'segments'"))
    if count == 1:
        return problems
    if preset.continuation is None:
        problems.append(("segments", f"{count} is given, but preset {preset.name!r} cannot continue from a segment"))
        return problems
    seam, frames = preset.continuation.frames, cast(int, full["num_frames"])
    if frames < 2 * seam:
        problems.append(
            (
                "num_frames",
                f"{frames} is too short: a segment of preset {preset.name!r} starts from {seam} frames "
                f"and must add as many",
            )
        )
    problems += [
        ("segments", f"{count} is given, and {field}, which describes a whole clip") for field in _INPUTS if full[field]
    ]
    full["seam_frames"] = seam
    return problems
