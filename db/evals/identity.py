"""A digest of what people see and hear of a published clip; an unchanged night has the same digests."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Batch, Job, Segment, Step
from pipeline.digests import canonical_json, sha256_hex
from pipeline.outputs import PACKETS, EncodeOutput, GenerateOutput
from pipeline.states import JobState, Stage


def identities(session: Session, batch_id: str) -> dict[str, str | None]:
    """Digests of a batch's clips by job: of all segments' frames and sound, the encode settings and the file's packets.

    None for a clip whose packets nobody digested, as of releases before: that nothing changed cannot be said of it.
    """
    options = session.scalars(select(Batch.options).where(Batch.id == batch_id)).one()
    of_batch = (Job.batch_id == batch_id) & (Job.state == JobState.SUCCEEDED)
    frames = session.execute(
        select(Segment.job_id, Segment.frames_sha256)
        .join(Job, (Job.id == Segment.job_id) & (Job.roll == Segment.roll))
        .where(of_batch)
        .order_by(Segment.job_id, Segment.segment)
    )
    steps = session.execute(
        select(Step.job_id, Step.stage, Step.output)
        .join(Job, (Job.id == Step.job_id) & (Job.roll == Step.roll))
        .where(of_batch, Step.stage.in_([Stage.GENERATE, Stage.ENCODE]))
        .order_by(Step.job_id, Step.segment)
    )
    clips: dict[str, _Clip] = {}
    for job_id, sha256 in frames:
        clips.setdefault(job_id, _Clip()).frames.append(sha256)
    for job_id, stage, output in steps:
        clip = clips.setdefault(job_id, _Clip())
        if stage is Stage.GENERATE:
            clip.hear(GenerateOutput.from_row(output))
        else:
            clip.see(EncodeOutput.from_row(output))
    return {job_id: clip.digest(options.get("encode")) for job_id, clip in clips.items()}


class _Clip:
    """What the rows say of one clip, in the order of its segments."""

    def __init__(self) -> None:
        self.frames: list[str] = []
        self._sounds: list[str | None] = []
        self._packets: str | None = None

    def hear(self, generated: GenerateOutput | None) -> None:
        self._sounds.append(generated.sound.sha256 if generated is not None and generated.sound is not None else None)

    def see(self, encoded: EncodeOutput | None) -> None:
        """The last segment's encode has the clip's file; those before it have parts."""
        if encoded is not None and encoded.video is not None:
            self._packets = encoded.probe.get(PACKETS)

    def digest(self, encode: Any) -> str | None:
        if self._packets is None:
            return None
        sounds: Sequence[str | None] = self._sounds
        facts = {"frames": self.frames, "sounds": list(sounds), "encode": encode, PACKETS: self._packets}
        return sha256_hex(canonical_json(facts))
