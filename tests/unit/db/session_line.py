"""Drives a session's rows as a client and workers do, without either."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update

from db.models import Reservation, StreamSession
from db.scheduling.dispatch import StepMessage
from db.session import Database
from db.sessions import rows, upkeep
from pipeline.outputs import EncodeOutput, ObjectRef
from pipeline.policy.routes import CPU_QUEUE, IO_QUEUE, encode_queue
from pipeline.presets import all_presets
from pipeline.settings import Settings, load_settings
from pipeline.states import Stage, StepState
from pipeline.wiring import make_storage
from pipeline.work import AnyResult, Claim, ContinuationRef, StageResult
from service import sessions
from service.sessions import SessionChoices
from service.views.sessions import SessionView, StreamSegmentView
from tasks.upkeep import dispatcher
from tests.outputs import generated
from tests.unit.db.line import GPU, HANDOFF, Line, result_of

SHA = "b" * 64
BLOBS = {"frames": {"key": f"states/{SHA}", "sha256": SHA, "size": 64 * 64 * 3}}


def state_of(number: int) -> ContinuationRef:
    """The state that a segment leaves."""
    payload = {"frames": 1, "height": 64, "width": 64, "number": number}
    return ContinuationRef("last_frames", 1, payload, BLOBS)


class SessionLine(Line):
    """One database with sessions; each method is what one process does at once."""

    def __init__(self, database: Database, settings: Settings | None = None) -> None:
        super().__init__(database)
        self.settings = settings or load_settings()

    def open(self, owner: str = "ada", **choices: Any) -> SessionView:
        return sessions.open_session(
            self.database, self.settings, SessionChoices(**{"preset": "idle", **choices}), owner=owner
        )

    def keep_state(self) -> None:
        """Put the frames of ``state_of`` into the store, as a worker does that made the segment."""
        frames = BLOBS["frames"]
        store = make_storage(self.settings)
        store.put_bytes(str(frames["key"]), bytes(64 * 64 * 3), content_type="application/octet-stream")

    def ask(self, session_id: str, segment: int, prompt: str = "", **more: Any) -> StreamSegmentView:
        prompt = prompt or f"segment {segment}"
        return sessions.add_segment(self.database, self.settings, session_id, segment, prompt, **more)

    def view(self, session_id: str) -> SessionView:
        return sessions.session_view(self.database, session_id)

    def admit(self, window: int = 64) -> list[StepMessage]:
        """Reserve GPUs and dispatch, as the dispatcher does."""
        self.reserve()
        self.reserve()  # what was bound by the first is ready by the second
        return super().admit(window)

    def reserve(self) -> None:
        dispatcher.reserve_gpus(self.database, all_presets(), self.settings.stream.gpu_share)

    def poll(self) -> None:
        with self.database.reading() as session:
            ids = upkeep.unsettled(session)
        for session_id in ids:
            with self.database.transaction() as session:
                upkeep.poll(session, session_id)

    def queues(self, session_id: str) -> tuple[str, ...]:
        """The queues that the session's worker and the others read."""
        with self.database.reading() as session:
            live = select(Reservation.queue).where(Reservation.session_id == session_id, Reservation.ended_at.is_(None))
            own = session.scalars(live).one_or_none()
        return (own or GPU, GPU, IO_QUEUE, CPU_QUEUE, encode_queue(HANDOFF))

    def take(self, session_id: str, segment: int, stage: Stage) -> Claim:
        """Work off a segment's steps until the one of that stage is claimed."""
        job_id = f"{self.view(session_id).batch_id}-{segment:06d}"
        return self.take_job(job_id, stage, self.queues(session_id))

    def try_claim(self, job_id: str, stage: Stage, **more: Any) -> Claim | None:
        """Claim as the worker does that is reserved for the job's session, else as any."""
        with self.database.reading() as session:
            own = select(Reservation.worker).where(
                Reservation.batch_id == job_id.split("-", maxsplit=1)[0], Reservation.ended_at.is_(None)
            )
            worker = session.scalars(own).one_or_none() if stage is Stage.GENERATE else "io"
        return super().try_claim(job_id, stage, worker=worker or "w1", **more)

    def take_job(self, job_id: str, stage: Stage, queues: tuple[str, ...]) -> Claim:
        for _ in Stage:
            self.admit()
            ready = [step for step in self.steps(job_id) if step.state is StepState.DISPATCHED]
            assert ready, f"{job_id}: nothing is dispatched of {self.states(job_id)}"
            claimed = self.claim(job_id, ready[0].stage, queues=queues)
            if claimed.work.stage is stage:
                return claimed
            self.finish(claimed, self.made(claimed))
        raise AssertionError(f"{job_id} never reached {stage}")

    def make(self, session_id: str, segment: int, through: Stage = Stage.PUBLISH) -> None:
        """Work off a segment's steps, that of the stage included."""
        claimed = self.take(session_id, segment, through)
        self.finish(claimed, self.made(claimed))

    def made(self, claimed: Claim) -> AnyResult:
        """What the stage hands back in a session."""
        work = claimed.work
        number = int(work.job_id[-6:])
        if work.stage is Stage.GENERATE:
            return StageResult(generated(frames_sha256=f"{number:064x}"), continuation=state_of(number))
        if work.stage is Stage.ENCODE:
            ref = ObjectRef(key=f"media/{work.job_id}/{SHA}.mp4", sha256=SHA, size=10)
            return StageResult(EncodeOutput(video=ref, poster=ref, strip=ref, sidecar=ref, probe={}))
        return result_of(claimed)

    def silence(self, session_id: str, seconds: float) -> None:
        """Let time pass in which nothing is heard of the session."""
        earlier = StreamSession.last_seen - round(seconds * 1000)
        with self.database.transaction() as session:
            session.execute(update(StreamSession).where(StreamSession.id == session_id).values(last_seen=earlier))

    def all_sessions(self) -> list[StreamSession]:
        with self.database.reading() as session:
            return rows.recent(session)

    def row(self, session_id: str) -> StreamSession:
        with self.database.reading() as session:
            return rows.get(session, session_id)
