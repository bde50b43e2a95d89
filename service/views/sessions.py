"""Views of streaming sessions and their segments."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from db.reading.sessions import SegmentFacts, SessionFacts
from db.sessions.rows import ends_at
from pipeline.states import Stage
from service.views.base import View, when, when_if_set
from service.views.waiting import ReasonView

SOURCE_LABEL = "session.source"
"""The label of a segment's job that says where its prompt is from."""


class StreamSegmentView(View):
    """One segment of a session: a job of its batch."""

    segment: int = Field(description="Number of the segment, from 0.")
    job_id: str
    prompt: str
    source: str = Field(description="Where the prompt is from: user, curated, enhanced or auto_extension.")
    seed: int
    state: str = Field(description="State of the job.")
    stage: str | None = Field(description="The stage that it is at; null once it has ended.")
    step_state: str | None = Field(description="State of that stage's step; pending: the segment before goes first.")
    phase: str | None = Field(description="The phase of that step, such as denoise.")
    step: int = Field(description="Progress within the phase, of `total_steps`.")
    total_steps: int
    attempt: int = Field(description="How often its generate step was begun.")
    frames_file: str | None = Field(
        description="Name of its raw frames in the hand-off folder of its worker's host, from the time when they are "
        "being generated; null before."
    )
    generated: bool = Field(description="Whether its frames are generated; the next segment may be, then.")
    frames_sha256: str | None
    num_frames: int | None = Field(description="Frames that it adds to the clip; null before they are generated.")
    numerics: dict[str, Any] | None = Field(description="The numerics fingerprint of its frames.")
    gpu_type: str | None = Field(description="Type of the GPU that its frames are from, also while they are made.")
    handoff_id: str | None = Field(description="The hand-off folder that has its frames.")
    video_key: str | None = Field(description="The published clip in the store.")
    error_code: str | None
    error: str | None
    reason: ReasonView | None = Field(
        None, description="Why it is not at work, as `sessions show` and `sessions list` read it; null where it is."
    )
    created_at: str = Field(description="ISO 8601, UTC.")
    generated_at: str | None = Field(description="ISO 8601, UTC.")
    finished_at: str | None = Field(description="ISO 8601, UTC.")


class SessionView(View):
    """A session, its GPU and its segments."""

    id: str
    owner: str
    batch_id: str = Field(description="The batch that its segments are jobs of; stored with the first of them.")
    preset: str
    state: str = Field(description="queued, gpu_binding, active, complete, error or timeout.")
    created_at: str = Field(description="ISO 8601, UTC.")
    last_seen: str = Field(description="When it was last heard of: ISO 8601, UTC.")
    ends_at: str = Field(description="When it times out unless it is heard of: ISO 8601, UTC.")
    timeout_s: float
    ended_at: str | None = Field(description="ISO 8601, UTC.")
    end_reason: str | None
    settled: bool = Field(description="Whether all its segments have ended, and the job that joins them is stored.")
    gpu: str | None = Field(description="The worker that is reserved for it; null while it has none.")
    gpu_type: str | None
    gpu_ready: bool = Field(description="Whether that worker holds the model and does nothing else.")
    queue_position: int | None = Field(description="How many sessions get a GPU before it; null where it has one.")
    queue_depth: int = Field(description="How many sessions wait for a GPU.")
    reason: ReasonView | None = Field(
        None, description="Why it has no GPU that is ready, as `sessions show` and `sessions list` read it."
    )
    width: int
    height: int
    fps: float
    num_frames: int = Field(description="Frames of the first segment.")
    later_frames: int = Field(description="Frames that each later segment adds.")
    num_inference_steps: int
    segment_cap: int | None = Field(description="The most segments that it may have; null: any number.")
    segments: list[StreamSegmentView]
    continuation: dict[str, Any] | None = Field(description="What another session goes on from to continue this one.")
    joined_job: str | None = Field(description="The job that joins all segments, once the session has ended.")
    extra: dict[str, Any] = Field(description="What the protocol keeps with it.")


class SessionListView(View):
    """Sessions, newest first; or those that were closed, in the order in which they were named."""

    sessions: list[SessionView]


def segment_view(facts: SegmentFacts, segment: int, reason: ReasonView | None = None) -> StreamSegmentView:
    """Return the view of one segment."""
    job, at_work, generated = facts.job, facts.at_work, facts.generated
    step = facts.steps.get(Stage.GENERATE)
    attempt = 0 if step is None else step.attempt
    return StreamSegmentView(
        segment=segment,
        job_id=job.id,
        prompt=job.spec["prompt"],
        source=job.spec.get("labels", {}).get(SOURCE_LABEL, "user"),
        seed=job.spec["seed"],
        state=job.state.value,
        stage=None if at_work is None else at_work.stage.value,
        step_state=None if at_work is None else at_work.state.value,
        phase=None if at_work is None else at_work.progress_phase,
        step=0 if at_work is None else at_work.progress_step,
        total_steps=0 if at_work is None else at_work.progress_total,
        attempt=attempt,
        frames_file=f"{job.id}.{job.roll}.0.{attempt}.rgb" if attempt else None,
        generated=generated is not None,
        frames_sha256=None if generated is None else generated.frames_sha256,
        num_frames=None if generated is None else generated.num_frames,
        numerics=None if generated is None else generated.numerics,
        gpu_type=facts.gpu_type,
        handoff_id=None if generated is None else generated.handoff_id,
        video_key=facts.video_key,
        error_code=job.error_code,
        error=job.error,
        reason=reason,
        created_at=when(job.created_at),
        generated_at=None if step is None or generated is None else when_if_set(step.finished_at),
        finished_at=when_if_set(job.finished_at),
    )


def session_view(
    facts: SessionFacts, reasons: Mapping[str, ReasonView] | None = None, reason: ReasonView | None = None
) -> SessionView:
    """Return the view of a session.

    ``reasons`` say why its segments' jobs are not at work, by the jobs' ids; ``reason`` says why it has no GPU.
    """
    row, reservation = facts.row, facts.reservation
    spec = row.spec
    return SessionView.of(
        row,
        state=row.state.value,
        created_at=when(row.created_at),
        last_seen=when(row.last_seen),
        ends_at=when(ends_at(row)),
        timeout_s=row.timeout_ms / 1000,
        ended_at=when_if_set(row.ended_at),
        settled=row.settled_at is not None,
        gpu=None if reservation is None else reservation.worker,
        gpu_type=None if reservation is None else reservation.gpu_type,
        gpu_ready=reservation is not None and reservation.ready_at is not None,
        queue_position=facts.position,
        queue_depth=facts.waiting,
        reason=reason,
        width=spec["width"],
        height=spec["height"],
        fps=spec["fps"],
        num_frames=spec["num_frames"],
        later_frames=spec["num_frames"] - spec.get("seam_frames", 0),
        num_inference_steps=spec["num_inference_steps"],
        segments=[
            segment_view(each, place, (reasons or {}).get(each.job.id)) for place, each in enumerate(facts.segments)
        ],
        continuation=facts.continuation,
        joined_job=row.joined_job_id,
    )
