"""What people ask of a line."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from db.clips import batches, cancel_retry_approve, continuations, jobs
from db.queue import pauses
from db.scheduling import budgets
from pipeline.prompts import PlannedJob, Submission
from pipeline.spec import BatchOptions, JobSpec, ScoreOptions
from pipeline.states import JobState, Stage
from tests.unit.db.line import QUEUES
from tests.unit.db.line_model import ModelJob
from tests.unit.db.line_rules.base import MOST_JOBS, QUEUE_OF, LineAndModel, pick
from tests.unit.db.line_values import ModelBatch, ModelStep

ASKED_OF = {
    "cancel": {JobState.WAITING, JobState.HELD, JobState.IN_FLIGHT},
    "retry": {JobState.FAILED, JobState.CANCELLED},
    "approve": {JobState.HELD},
    "reject": {JobState.HELD},
}
HOUR_MS = 3_600_000
PRICES = {"cpu": 1.0}
clips = st.tuples(st.booleans(), st.sampled_from((1, 1, 2, 3)))
"""Whether its prompt is enhanced, and how many segments it has."""
rerolls = st.sampled_from((None, None, 0, 1, 2))
hours = st.sampled_from((None, None, 1, 2))


class People(LineAndModel):
    """Batches are submitted and given budgets; jobs are extended, cancelled, retried and judged; all can be paused."""

    @rule(some=st.lists(clips, min_size=1, max_size=2), reroll=rerolls, limit=hours, priority=st.integers(-1, 1))
    def submit(self, some: list[tuple[bool, int]], reroll: int | None, limit: int | None, priority: int) -> None:
        if len(self.jobs) >= MOST_JOBS:
            return
        lines = [
            {"prompt": f"clip {number}", "enhance": enhanced, "segments": segments, "priority": priority}
            for number, (enhanced, segments) in enumerate(some)
        ]
        batch_id = self.line.submit(
            *lines,
            again=True,
            owner=f"owner {len(self.jobs) % 2}",
            score=None if reroll is None else ScoreOptions(metrics=("checks",), gate=("checks",), reroll=reroll),
            limits=batches.Limits(max_gpu_ms=limit and limit * HOUR_MS, prices=PRICES),
        )
        batch = self.batches[batch_id] = ModelBatch(reroll, limit)
        for number, (enhanced, segments) in enumerate(some):
            first = (0, Stage.ENHANCE if enhanced else Stage.SCREEN)
            self.jobs[f"{batch_id}-{number:06d}"] = ModelJob(batch_id, batch, segments, False, {first: ModelStep()})

    @precondition(lambda self: self.succeeded() and len(self.jobs) < MOST_JOBS)
    @rule(number=pick, segments=st.integers(1, 2))
    def extend(self, number: int, segments: int) -> None:
        """A new job goes on from the last frames of one that has succeeded."""
        job_id = self.succeeded()[number % len(self.succeeded())]
        with self.database.transaction() as session:
            row = jobs.get(session, job_id)
            state = continuations.last(session, job_id, row.roll)
            assert state is not None
            changed = {"extends": job_id, "segments": segments, "segment_prompts": (), "seam_frames": 1}
            spec = JobSpec.model_validate(row.spec).model_copy(update={**changed, "enhance": False})
            batch_id = batches.submit(
                session,
                Submission([PlannedJob(1, 0, spec)], "", {}, f"extend-{job_id}"),
                name="n",
                owner="ada",
                options=BatchOptions(),
                again=True,
                states={0: state},
            ).batch_id
        batch = self.batches[batch_id] = ModelBatch(None, None)
        steps = {(0, Stage.SCREEN): ModelStep()}
        self.jobs[f"{batch_id}-000000"] = ModelJob(batch_id, batch, segments, True, steps)

    def succeeded(self) -> list[str]:
        return [key for key, job in self.jobs.items() if job.state is JobState.SUCCEEDED]

    @precondition(lambda self: self.jobs)
    @rule(number=pick, verb=st.sampled_from(("cancel", "retry", "retry", "approve", "approve", "reject")))
    def ask(self, number: int, verb: str) -> None:
        applies = [key for key, job in self.jobs.items() if job.state in ASKED_OF[verb]]
        choice = applies if applies and number % 4 else list(self.jobs)  # mostly those to whom it applies
        job_id = choice[number // 4 % len(choice)]
        job = self.jobs[job_id]
        with self.database.transaction() as session:
            match verb:
                case "cancel":
                    done, expected = cancel_retry_approve.cancel(session, job_id), job.ask_to_stop()
                case "retry":
                    done, expected = cancel_retry_approve.retry(session, job_id), job.retry()
                case "approve":
                    done, expected = cancel_retry_approve.approve(session, job_id, by="ada"), job.approve()
                case _:
                    done, expected = cancel_retry_approve.reject(session, job_id, by="ada"), job.reject()
        assert done == expected

    @precondition(lambda self: self.jobs)
    @rule(number=pick, paused=st.sampled_from((True, False, False)))
    def pause_batch(self, number: int, paused: bool) -> None:
        batch_id, batch = list(self.batches.items())[number % len(self.batches)]
        change = pauses.pause_batch if paused else pauses.resume_batch
        with self.database.transaction() as session:
            assert change(session, batch_id, by="ada") == (paused != batch.paused)
        batch.paused = paused

    @rule(queue=st.sampled_from((*QUEUES, "vgen.gpu", "*")), paused=st.sampled_from((True, False, False, False)))
    def pause_queue(self, queue: str, paused: bool) -> None:
        change = pauses.pause_queue if paused else pauses.resume_queue
        with self.database.transaction() as session:
            assert change(session, queue, by="ada") == (paused != (queue in self.paused_queues))
        (self.paused_queues.add if paused else self.paused_queues.discard)(queue)

    @precondition(lambda self: self.batches)
    @rule(number=pick, limit=st.sampled_from((None, 1, 2, 4)), money=st.booleans())
    def set_budget(self, number: int, limit: int | None, money: bool) -> None:
        """Of GPU time, or of money at one a hour."""
        batch_id, batch = list(self.batches.items())[number % len(self.batches)]
        with self.database.transaction() as session:
            budgets.set_limits(
                session,
                batch_id,
                max_gpu_ms=None if money or limit is None else limit * HOUR_MS,
                max_cost=None if limit is None or not money else float(limit),
                prices=PRICES,
                by="ada",
            )
        batch.limit = limit

    @precondition(lambda self: self.paused_queues or any(batch.paused for batch in self.batches.values()))
    @rule()
    def withdraw(self) -> None:
        with self.database.transaction() as session:
            taken_back = pauses.withdraw(session)
        paused = [
            (key, place)
            for key, place in self.dispatched()
            if self.is_paused(QUEUE_OF[place[1]]) or self.jobs[key].batch.paused
        ]
        assert taken_back == len(paused)
        for key, place in paused:
            self.jobs[key].back_in_line(place)
