"""A line at work is paused, resumed, and stopped by a budget."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cli.batches.follow import snapshot_of
from db import events
from db.clips import batches
from db.queue import pauses
from db.scheduling import budgets
from db.session import Database
from pipeline.policy.routes import ALL_QUEUES
from pipeline.states import AttemptOutcome, JobState, Stage
from tests.line_helpers import (
    IDLE,
    denoises,
    home_of,
    job_list,
    job_states,
    runs_of,
    settings_for,
    solo,
    states,
    submit,
    until,
    until_settled,
)


def _pause(database: Database, batch_id: str | None, paused: bool) -> None:
    with database.transaction() as session:
        if batch_id is None:
            (pauses.pause_queue if paused else pauses.resume_queue)(session, ALL_QUEUES, by="ada")
        else:
            (pauses.pause_batch if paused else pauses.resume_batch)(session, batch_id, by="ada")
    with database.transaction() as session:  # what `vgen pause` does too: no message has to be missed first
        pauses.withdraw(session)


def test_a_pause_gives_back_what_runs_and_a_resume_finishes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a clip that is being made
    monkeypatch.setenv("VGEN_IDLE_STEP_S", "0.02")
    settings = settings_for(tmp_path)
    with home_of(settings) as database:
        batch_id = submit(settings, database, [{"prompt": "a", **IDLE, "num_inference_steps": 80}] * 2)
        with solo(settings, database) as line:
            for what in (batch_id, None):
                until(lambda: denoises(database, batch_id))

                # When its batch, or everything, is paused, then nothing of it runs, and who watches is told so
                _pause(database, what, True)
                until(lambda: snapshot_of(database, [batch_id]).needs_people)
                assert not snapshot_of(database, [batch_id]).running
                _pause(database, what, False)

            # Then the resumed batch is finished, and no pause was a failed attempt
            until_settled(database, batch_id, line)
        assert job_states(database, batch_id) == [JobState.SUCCEEDED] * 2
        runs = [run for job in job_list(database, batch_id) for run in runs_of(database, job.id)]
        outcomes = Counter(run.outcome for run in runs if run.stage is Stage.GENERATE)
        assert outcomes.keys() == {AttemptOutcome.RELEASED, AttemptOutcome.DONE}
        assert outcomes[AttemptOutcome.DONE] == 2


def test_a_budget_ends_the_generating_and_a_larger_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_IDLE_STEP_S", "0.05")
    settings = settings_for(tmp_path)
    with home_of(settings) as database:
        batch_id = submit(settings, database, [{"prompt": f"clip {number}", **IDLE} for number in range(8)])
        with database.transaction() as session:
            budgets.set_limits(session, batch_id, max_gpu_ms=250, max_cost=None, prices={}, by="ada")
        with solo(settings, database) as line:
            until(lambda: snapshot_of(database, [batch_id]).needs_people)
            found = states(database, batch_id)
            assert 1 <= found[JobState.SUCCEEDED] < 8
            assert found[JobState.SUCCEEDED] + found[JobState.WAITING] == 8
            with database.reading() as session:
                batch = batches.get(session, batch_id)
                assert (batch.over_budget, batch.gpu_ms >= 250) == (True, True)
                kinds = [event.kind for event in events.of_batch(session, batch_id)]
            assert kinds.count("budget_reached") == 1

            with database.transaction() as session:
                budgets.set_limits(session, batch_id, max_gpu_ms=None, max_cost=None, prices={}, by="ada")
            until_settled(database, batch_id, line)
        assert job_states(database, batch_id) == [JobState.SUCCEEDED] * 8
