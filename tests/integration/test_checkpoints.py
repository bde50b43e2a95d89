"""A clip that is cut off goes on where it was: killed, paused, drained, its frames lost, its checkpoint damaged.

One solo line and one real (tiny) model for the whole module; every clip has the same request, so all frames are equal.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select

from db import events
from db.models import Checkpoint, Job, Queue, Step
from db.queue import pauses
from db.session import Database
from pipeline.handoff import Handoff
from pipeline.policy.routes import encode_queue
from pipeline.settings import Settings
from pipeline.states import AttemptOutcome, JobState, Stage
from pipeline.wiring import make_storage
from tasks.hosts.solo import SoloLine
from tests.line_helpers import (
    assert_published_once,
    cancel,
    frames_by_job,
    home_of,
    job_list,
    processes_with,
    runs_of,
    settings_for,
    sidecar_of,
    solo,
    submit,
    until,
    until_settled,
)

STEPS = 160
"""Enough that a fault falls into the middle of the clip; each takes milliseconds."""
CLIP = {
    "prompt": "a kite",
    "seed": 5,
    "preset": "tiny-wan",
    "width": 32,
    "height": 32,
    "num_frames": 5,
    "num_inference_steps": STEPS,
}


@dataclass
class Bench:
    """A home, and what an undisturbed clip in it looks like."""

    settings: Settings
    database: Database
    frames: str

    def submit(self) -> tuple[str, str]:
        """A new clip: its batch and job."""
        batch_id = submit(self.settings, self.database, [CLIP])
        return batch_id, job_list(self.database, batch_id)[0].id

    def rows(self, job_id: str) -> list[Checkpoint]:
        with self.database.reading() as session:
            return list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id)))

    def objects(self, job_id: str) -> list[str]:
        return [item.key for item in make_storage(self.settings).list(f"checkpoints/{job_id}/")]

    def facts(self, job_id: str) -> dict[str, Any]:
        """What the newest attempt at generating said of itself."""
        with self.database.reading() as session:
            output = session.scalars(
                select(Step.output).where(Step.job_id == job_id, Step.stage == Stage.GENERATE)
            ).one()
        assert output is not None
        return dict(output["facts"])

    def events(self, job_id: str) -> list[str]:
        with self.database.reading() as session:
            return [event.kind for event in events.of_job(session, job_id)]

    def attempts(self, job_id: str) -> list[AttemptOutcome]:
        return [run.outcome for run in runs_of(self.database, job_id) if run.stage is Stage.GENERATE]

    def denoised(self, job_id: str, step: int) -> bool:
        with self.database.reading() as session:
            found = select(Step.progress_step).where(Step.job_id == job_id, Step.stage == Stage.GENERATE)
            return (session.scalars(found).one_or_none() or 0) >= step

    def pause(self, batch_id: str, paused: bool) -> None:
        with self.database.transaction() as session:
            (pauses.pause_batch if paused else pauses.resume_batch)(session, batch_id, by="ada")

    def check(self, batch_id: str, job_id: str) -> None:
        """The clip is published once with the frames of the undisturbed one, and its checkpoints are gone."""
        assert_published_once(self.settings, self.database, batch_id)
        assert [frames for frames, _ in frames_by_job(self.settings, self.database, batch_id)] == [self.frames]
        assert self.rows(job_id) == []
        # The row goes with the job, the object just after.
        until(lambda: self.objects(job_id) == [], lambda: f"left: {self.objects(job_id)}")

    def check_resumed(self, job_id: str, from_step: int) -> None:
        facts = self.facts(job_id)
        assert facts["resumed_from_step"] >= from_step
        assert facts["denoise_steps"] == STEPS - facts["resumed_from_step"] + 1


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    settings = settings_for(tmp_path_factory.mktemp("checkpoints"))
    # A clip takes half a second on a fast machine: the rows must hear of its steps several times.
    worker = settings.worker.model_copy(update={"checkpoint_s": 0.05, "control_s": 0.03})
    settings = settings.model_copy(update={"worker": worker})
    with home_of(settings) as database:
        yield Bench(settings, database, "")


@pytest.fixture(scope="module")
def line(bench: Bench) -> Iterator[SoloLine]:
    """The line at work; an undisturbed clip comes first."""
    with solo(bench.settings, bench.database) as running:
        batch_id, job_id = bench.submit()
        until_settled(bench.database, batch_id, running)
        bench.frames = frames_by_job(bench.settings, bench.database, batch_id)[0][0]
        assert bench.facts(job_id)["denoise_steps"] == STEPS
        bench.check(batch_id, job_id)
        yield running


def test_a_generator_that_is_killed_goes_on_at_its_checkpoint(bench: Bench, line: SoloLine) -> None:
    batch_id, job_id = bench.submit()
    until(lambda: any(row.step >= 5 for row in bench.rows(job_id)))
    (child,) = processes_with(str(bench.settings.effective_cache_dir))
    os.kill(child, signal.SIGKILL)
    until_settled(bench.database, batch_id, line)

    assert bench.attempts(job_id) == [AttemptOutcome.RETRIED, AttemptOutcome.DONE]
    bench.check_resumed(job_id, 5)
    bench.check(batch_id, job_id)
    sidecar = sidecar_of(bench.settings, bench.database, job_id)
    assert sidecar["denoising"] == {
        "steps": bench.facts(job_id)["denoise_steps"],
        "resumed_from_step": bench.facts(job_id)["resumed_from_step"],
        "checkpoint_unusable": None,
    }


def test_a_pause_keeps_where_the_clip_is_and_counts_as_no_failure(bench: Bench, line: SoloLine) -> None:
    batch_id, job_id = bench.submit()
    until(lambda: bench.denoised(job_id, 5))
    bench.pause(batch_id, True)
    until(lambda: bench.attempts(job_id) == [AttemptOutcome.RELEASED])
    (row,) = bench.rows(job_id)
    assert bench.objects(job_id) == [row.key]
    assert not row.final
    bench.pause(batch_id, False)
    until_settled(bench.database, batch_id, line)

    assert bench.attempts(job_id) == [AttemptOutcome.RELEASED, AttemptOutcome.DONE]
    bench.check_resumed(job_id, row.step)
    bench.check(batch_id, job_id)


def test_a_checkpoint_that_is_damaged_costs_the_steps_and_nothing_else(bench: Bench, line: SoloLine) -> None:
    batch_id, job_id = bench.submit()
    until(lambda: bench.denoised(job_id, 5))
    bench.pause(batch_id, True)
    until(lambda: bench.attempts(job_id) == [AttemptOutcome.RELEASED])
    (row,) = bench.rows(job_id)
    make_storage(bench.settings).put_bytes(row.key, b"not what was stored", content_type="text/plain")
    bench.pause(batch_id, False)
    until_settled(bench.database, batch_id, line)

    facts = bench.facts(job_id)
    assert facts["denoise_steps"] == STEPS
    assert "sha256" in facts["checkpoint_unusable"]
    assert bench.events(job_id).count("checkpoint_unusable") == 1
    bench.check(batch_id, job_id)


def test_frames_that_are_lost_after_generating_cost_one_model_call(bench: Bench, line: SoloLine) -> None:
    handoff = Handoff.open(bench.settings.effective_handoff_dir, bench.settings.handoff_bytes)
    _pause_queue(bench.database, encode_queue(handoff.id), True)
    batch_id, job_id = bench.submit()
    until(lambda: bench.attempts(job_id) == [AttemptOutcome.DONE])
    assert [row.final for row in bench.rows(job_id)] == [True]
    for frames in handoff.path.glob(f"{job_id}.*"):
        frames.unlink()
    _pause_queue(bench.database, encode_queue(handoff.id), False)
    until_settled(bench.database, batch_id, line)

    assert bench.attempts(job_id) == [AttemptOutcome.DONE, AttemptOutcome.DONE]
    facts = bench.facts(job_id)
    assert (facts["resumed_from_step"], facts["denoise_steps"]) == (STEPS, 1)
    bench.check(batch_id, job_id)


def test_a_cancelled_clip_keeps_nothing(bench: Bench, line: SoloLine) -> None:
    batch_id, job_id = bench.submit()
    until(lambda: len(bench.rows(job_id)) == 1)
    cancel(bench.database, job_id)
    until_settled(bench.database, batch_id, line)

    with bench.database.reading() as session:
        assert session.get_one(Job, job_id).state is JobState.CANCELLED
    assert bench.rows(job_id) == []
    assert bench.attempts(job_id) == [AttemptOutcome.CANCELLED]


def test_a_line_that_stops_keeps_where_the_clip_is_for_the_next(bench: Bench, line: SoloLine) -> None:
    """Ends the module's line, so it comes last: SIGTERM or Ctrl-C twice do what its end does."""
    batch_id, job_id = bench.submit()
    until(lambda: bench.denoised(job_id, 5))
    line.request_stop(now=True)
    until(lambda: bench.attempts(job_id) == [AttemptOutcome.RELEASED])
    (row,) = bench.rows(job_id)
    line.__exit__(None, None, None)

    with SoloLine(bench.settings, bench.database) as following:
        until_settled(bench.database, batch_id, following)

    bench.check_resumed(job_id, row.step)
    bench.check(batch_id, job_id)


def _pause_queue(database: Database, queue: str, paused: bool) -> None:
    with database.transaction() as session:
        session.merge(Queue(name=queue, paused=paused))
