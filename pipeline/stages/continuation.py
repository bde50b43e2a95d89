"""The state between segments: the last frames of one, kept in the store, that the next one is conditioned on.

Blobs lie under their digest: any worker can fetch them, and equal ones are one. The row that names them is written in
the transaction that finishes the segment.
"""

import hashlib
from pathlib import Path

from pipeline.digests import sha256_hex
from pipeline.errors import NotFoundError, RefusedError, SegmentLostError
from pipeline.files.object_names import state_key
from pipeline.outputs import GenerateOutput
from pipeline.work import ContinuationRef, StageContext, StepWork

LAST_FRAMES = "last_frames"
"""The kind of a state that is a segment's last frames: raw, n × H × W × 3 uint8, RGB."""
VERSION = 1
BLOB = "frames"
_MEDIA_TYPE = "application/octet-stream"


def keep_last_frames(
    work: StepWork, context: StageContext, frames: Path, generated: GenerateOutput, count: int
) -> ContinuationRef:
    """Store the last ``count`` frames of a raw file; ``generated`` is what the generate stage recorded of it.

    Raises:
        RetryableError: the store cannot be reached.
    """
    size = generated.height * generated.width * 3 * count
    with frames.open("rb") as file:
        file.seek(-size, 2)
        data = file.read(size)
    sha256 = sha256_hex(data)
    # Also where it lies there already: an object that no row names yet must be young, or a sweep may take it.
    context.storage.put_bytes(state_key(sha256), data, content_type=_MEDIA_TYPE)
    payload = {
        "frames": count,
        "height": generated.height,
        "width": generated.width,
        "fps": work.spec.fps,
        "preset": work.spec.preset,
        "model_revision": generated.model_revision,
        "prompt": generated.prompt,
    }
    return ContinuationRef(
        LAST_FRAMES, VERSION, payload, {BLOB: {"key": state_key(sha256), "sha256": sha256, "size": size}}
    )


def fetch_last_frames(work: StepWork, context: StageContext, path: Path) -> Path:
    """The frames that the segment goes on from, as a file at ``path``.

    Raises:
        SegmentLostError: code ``continuation_lost``; they are gone or damaged, and can be made again.
        RefusedError: code ``continuation_missing``, where another job made them; or ``continuation_unfit``.
        RetryableError: the store cannot be reached.
    """
    state = work.continuation
    if state is None:
        raise _lost(work, "its row is gone")
    check_fits(state, frames=work.spec.seam_frames, height=work.spec.height, width=work.spec.width)
    blob = state.blobs[BLOB]
    try:
        context.storage.download(blob["key"], path)
    except NotFoundError:
        raise _lost(work, f"{blob['key']} is not in the store") from None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != blob["sha256"]:
        raise _lost(work, f"{blob['key']} has sha256 {digest}, expected {blob['sha256']}")
    return path


def check_fits(state: ContinuationRef, *, frames: int, height: int, width: int) -> None:
    """Check that a clip of that size can go on from the state with so many frames.

    Raises:
        RefusedError: code ``continuation_unfit``.
    """
    if (state.kind, state.version) != (LAST_FRAMES, VERSION):
        raise RefusedError(
            f"the continuation state is {state.kind!r} version {state.version}; "
            f"this release supports {LAST_FRAMES!r} version {VERSION}",
            code="continuation_unfit",
        )
    expected = {"frames": frames, "height": height, "width": width}
    wrong = [
        f"{name} {state.payload.get(name)} in place of {value}"
        for name, value in expected.items()
        if state.payload.get(name) != value
    ]
    if wrong:
        raise RefusedError(f"the continuation state has {', '.join(wrong)}", code="continuation_unfit")


def _lost(work: StepWork, why: str) -> SegmentLostError | RefusedError:
    message = f"the continuation state of segment {work.segment + 1} is lost: {why}"
    if work.segment == 0:
        return RefusedError(message, code="continuation_missing")
    return SegmentLostError(message, code="continuation_lost", segment=work.segment - 1)
