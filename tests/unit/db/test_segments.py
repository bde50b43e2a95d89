"""Clips of several segments as rows: what goes on when, and what becomes of the rest when a step ends otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from db.clips import cancel_retry_approve, continuations, retention
from db.queue import outcomes, recovery
from db.session import Database
from pipeline.errors import FatalError, RefusedError
from pipeline.policy.routes import IO_QUEUE
from pipeline.states import JobState, Stage, StepState
from pipeline.work import Claim, ContinuationRef, StageResult
from tests.outputs import encoded_part, generated
from tests.rules import keeps_every_rule
from tests.unit.db.line import GPU, HANDOFF, SHA, Line, result_of

G, E, P = Stage.GENERATE, Stage.ENCODE, Stage.PUBLISH
DONE, WAITING, PENDING, RUNNING = StepState.DONE, StepState.WAITING, StepState.PENDING, StepState.RUNNING
DISPATCHED = StepState.DISPATCHED


def state_of(segment: int) -> ContinuationRef:
    blob = {"key": f"states/{segment:064d}", "sha256": f"{segment:064d}", "size": 3}
    return ContinuationRef("last_frames", 1, {"frames": 1}, {"frames": blob})


class Clip:
    """One job of several segments, driven by hand."""

    def __init__(self, line: Line, segments: int = 3) -> None:
        self.line = line
        line.worker()
        batch_id = line.submit({"prompt": "a cat", "segments": segments}, again=True)
        self.id, self.segments = f"{batch_id}-000000", segments
        self.work_off(0, Stage.SCREEN)

    def claim(self, segment: int, stage: Stage) -> Claim:
        self.line.make_due(self.id)
        self.line.admit()
        claimed = self.line.try_claim(self.id, stage, segment=segment)
        assert claimed is not None, f"{segment} {stage} cannot be claimed: {self.states()}"
        return claimed

    def finish(self, claimed: Claim, sha: str = SHA) -> outcomes.Finished:
        work = claimed.work
        last = work.segment == self.segments - 1
        result = result_of(claimed)
        if work.stage is G:
            output = generated(num_frames=4, frames_sha256=sha, prompt="p")
            result = StageResult(output, continuation=None if last else state_of(work.segment))
        elif work.stage is E:
            part = encoded_part(f"media/{self.id}/{work.segment}.segment.mp4")
            result = replace(result, continuation=state_of(work.segment)) if last else StageResult(part)
        return self.line.finish(claimed, result)

    def work_off(self, segment: int, stage: Stage, sha: str = SHA) -> outcomes.Finished:
        return self.finish(self.claim(segment, stage), sha)

    def states(self) -> dict[tuple[int, Stage], StepState]:
        keeps_every_rule(self.line.database)
        return {
            (step.segment, step.stage): step.state
            for step in self.line.steps(self.id)
            if step.stage is not Stage.SCREEN
        }

    def job(self) -> JobState:
        return self.line.job(self.id).state


@pytest.fixture
def clip(database: Database) -> Clip:
    return Clip(Line(database))


def test_a_segment_is_encoded_while_the_next_is_generated_and_the_last_goes_on_alone(clip: Clip) -> None:
    clip.work_off(0, G)
    assert clip.states() == {(0, G): DONE, (0, E): DISPATCHED, (1, G): WAITING}

    encoding, generating = clip.claim(0, E), clip.claim(1, G)
    assert generating.work.continuation == state_of(0)
    assert (generating.work.outputs.screen is not None, clip.job()) == (True, JobState.IN_FLIGHT)
    clip.finish(generating)
    assert clip.job() is JobState.IN_FLIGHT  # the first segment is being encoded
    clip.work_off(2, G)
    assert clip.states()[2, E] is PENDING  # the joined video needs the others
    clip.work_off(1, E)
    assert clip.states()[2, E] is PENDING
    clip.finish(encoding)
    assert clip.states()[2, E] is WAITING

    joining = clip.claim(2, E)
    assert [made.encoded.part and made.encoded.part.key for made in joining.work.earlier] == [
        f"media/{clip.id}/{segment}.segment.mp4" for segment in (0, 1)
    ]
    clip.finish(joining)
    published = clip.work_off(2, P)

    # Its last frames are kept for who extends it; what only the way there needed is not
    assert (clip.job(), (2, P) in clip.states(), (0, P) in clip.states()) == (JobState.SUCCEEDED, True, False)
    assert set(published.unneeded) == {f"media/{clip.id}/{segment}.segment.mp4" for segment in (0, 1)}
    with clip.line.database.transaction() as session:
        assert continuations.last(session, clip.id, 1) == state_of(2)
        kept = {f"states/{segment:064d}" for segment in range(3)}
        assert retention.unreferenced(session, sorted(kept)) == kept - {state_of(2).blobs["frames"]["key"]}


def test_a_segment_is_encoded_at_once_and_the_next_one_waits_for_its_gpu(clip: Clip) -> None:
    claimed = clip.claim(0, G)
    finished = clip.line.finish(claimed, StageResult(generated(num_frames=4), continuation=state_of(0)))

    assert (finished.next_stage, finished.queue) == (E, f"vgen.encode.{HANDOFF}")
    assert (clip.states()[0, E], clip.states()[1, G]) == (DISPATCHED, WAITING)


def test_a_step_that_fails_for_good_sets_the_others_aside_and_a_retry_takes_them_up(clip: Clip) -> None:
    clip.work_off(0, G)
    encoding, generating = clip.claim(0, E), clip.claim(1, G)

    with clip.line.database.transaction() as session:
        outcomes.fail(session, encoding, RefusedError("no such codec", code="encode_options"))

    assert (clip.job(), clip.states()) == (JobState.FAILED, {(0, G): DONE, (0, E): StepState.FAILED, (1, G): PENDING})
    assert not clip.finish(generating).recorded  # fenced: it was set aside
    with clip.line.database.transaction() as session:
        assert cancel_retry_approve.retry(session, clip.id)
    assert clip.states() == {(0, G): DONE, (0, E): WAITING, (1, G): WAITING}
    for segment, stage in ((1, G), (0, E), (2, G), (1, E), (2, E), (2, P)):
        clip.work_off(segment, stage)
    assert clip.job() is JobState.SUCCEEDED


def test_a_cancelled_clip_ends_with_the_last_of_its_running_steps(clip: Clip) -> None:
    clip.work_off(0, G)
    encoding, generating = clip.claim(0, E), clip.claim(1, G)
    with clip.line.database.transaction() as session:
        cancel_retry_approve.cancel(session, clip.id)

    clip.finish(encoding)
    assert (clip.job(), clip.states()[1, G]) == (JobState.IN_FLIGHT, RUNNING)
    clip.line.expire(clip.id)
    with clip.line.database.transaction() as session:
        recovery.end_leases(session)

    assert clip.job() is JobState.CANCELLED
    assert not clip.finish(generating).recorded
    with clip.line.database.transaction() as session:
        assert cancel_retry_approve.retry(session, clip.id)
    assert clip.states() == {(0, G): DONE, (0, E): WAITING, (1, G): WAITING}


def test_a_lost_worker_costs_its_own_step_only(clip: Clip) -> None:
    clip.work_off(0, G)
    clip.work_off(1, G)
    clip.claim(2, G)
    clip.work_off(0, E)
    clip.line.expire(clip.id)
    with clip.line.database.transaction() as session:
        assert recovery.end_leases(session) == 1

    assert clip.states()[2, G] is WAITING
    for segment, stage in ((2, G), (1, E), (2, E), (2, P)):
        clip.work_off(segment, stage)
    assert clip.job() is JobState.SUCCEEDED


def test_a_segment_that_is_lost_at_the_join_is_made_again_and_only_that(clip: Clip) -> None:
    for segment, stage in ((0, G), (0, E), (1, G), (1, E), (2, G)):
        clip.work_off(segment, stage)
    joining = clip.claim(2, E)

    with clip.line.database.transaction() as session:
        outcomes.rewind(session, joining, to=G, reason="segment_lost", segment=0)

    assert clip.states() == {
        **{(0, G): WAITING, (0, E): PENDING, (1, G): DONE},
        **{(1, E): DONE, (2, G): DONE, (2, E): PENDING},
    }
    for segment, stage in ((0, G), (0, E), (2, E), (2, P)):
        clip.work_off(segment, stage)
    assert clip.job() is JobState.SUCCEEDED


def test_segments_after_one_that_was_made_again_with_other_frames_are_made_again(clip: Clip) -> None:
    for segment, stage in ((0, G), (0, E), (1, G), (1, E)):
        clip.work_off(segment, stage)
    last = clip.claim(2, G)
    with clip.line.database.transaction() as session:
        outcomes.rewind(session, last, to=G, reason="continuation_lost", segment=1)

    clip.work_off(1, G, sha="b" * 64)

    # The last one goes on from the new frames; the first is as it was
    assert clip.states() == {(0, G): DONE, (0, E): DONE, (1, G): DONE, (1, E): DISPATCHED, (2, G): WAITING}
    for segment, stage in ((1, E), (2, G), (2, E), (2, P)):
        clip.work_off(segment, stage)
    assert clip.job() is JobState.SUCCEEDED


def test_a_bug_in_one_segment_is_tried_again_while_another_is_encoded(clip: Clip) -> None:
    clip.work_off(0, G)
    encoding, generating = clip.claim(0, E), clip.claim(1, G)
    with clip.line.database.transaction() as session:
        outcomes.fail(session, generating, FatalError("a bug"))

    assert (clip.job(), clip.states()[1, G]) == (JobState.IN_FLIGHT, WAITING)
    clip.finish(encoding)
    assert clip.job() is JobState.WAITING


def test_an_encode_queue_that_nobody_serves_sends_one_segment_back(clip: Clip) -> None:
    clip.work_off(0, G)
    clip.line.admit()
    clip.line.worker(IO_QUEUE, GPU)
    clip.line.age_dispatch(60_000)
    with clip.line.database.transaction() as session:
        recovery.rewind_lost_handoffs(session, gone_ms=30_000)

    assert clip.states()[0, G] is WAITING
    assert clip.states()[0, E] is PENDING
