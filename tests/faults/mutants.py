"""The mutants: small changes that each take one safeguard away, and the quick tests that must notice it.

`make mutants` (``tests/faults/run_mutants.py``) applies them one by one to a copy of the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A change and who must notice."""

    name: str
    path: str
    old: str
    new: str
    tests: Sequence[str]


_BINDING = (
    "tests/unit/db/test_reservations.py"
    "::test_binding_gives_back_what_runs_there_and_the_worker_takes_the_sessions_segments_only"
)
_SUCCESSION = (
    "tests/unit/db/test_stream_sessions.py"
    "::test_a_segment_is_generated_once_the_one_before_left_its_frames_and_not_before"
)

MUTANTS = (
    Mutant(
        "a finish that does not ask for the attempt's number",
        "db/queue/leases.py",
        '        & (table.attempt == bindparam("p_attempt"))\n',
        '        & (bindparam("p_attempt") > 0)\n',
        [
            "tests/unit/db/test_attempt_endings.py::test_a_worker_that_lost_its_lease_changes_nothing",
            "tests/unit/db/test_score_steps.py::test_a_worker_that_lost_its_lease_records_nothing",
        ],
    ),
    Mutant(
        "a state that changes from any other",
        "db/moves.py",
        "    return update(table).where(in_state).values(",
        "    return update(table).values(",
        ["tests/unit/db/test_leases.py::test_only_a_dispatched_step_is_claimed", "tests/unit/db/test_jobs.py"],
    ),
    Mutant(
        "a move that states.py does not know",
        "db/moves.py",
        "    if forbidden := [",
        "    if False and [",
        ["tests/unit/db/test_moves.py::test_a_move_that_is_not_in_the_table_cannot_be_written"],
    ),
    Mutant(
        "a renewal that does not ask whether the step still runs",
        "db/queue/leases.py",
        "        & (table.state == StepState.RUNNING)\n",
        "",
        ["tests/unit/db/test_attempt_endings.py::test_an_attempt_that_has_ended_renews_nothing"],
    ),
    Mutant(
        "a gate's rejection that does not ask whether the attempt is the current one",
        "db/queue/finishing.py",
        """        return Finished(recorded=False)
    scores.record(session, work.job_id, work.roll, result.scores)
    if not more:""",
        """        pass
    scores.record(session, work.job_id, work.roll, result.scores)
    if not more:""",
        ["tests/unit/db/test_rerolls.py::test_what_a_lost_worker_says_of_an_earlier_roll_is_refused"],
    ),
    Mutant(
        "a next roll that keeps what is left open of the one before",
        "db/clips/rerolls.py",
        "    _close(session, job_id, roll - 1)\n",
        "",
        ["tests/unit/db/test_rerolls.py::test_a_rewound_clip_that_is_rejected_then_leaves_nothing_open_of_its_roll"],
    ),
    Mutant(
        "segments that are joined before all of them are encoded",
        "db/clips/segments.py",
        "    return all(states.get((segment, Stage.ENCODE)) is StepState.DONE for segment in range(work.segment))",
        "    return True",
        ["tests/unit/db/test_segments.py"],
    ),
    Mutant(
        "a join that is let go once any other segment is encoded",
        "db/clips/segments.py",
        "                needed |= {(other, Stage.ENCODE) for other in range(segment)}\n",
        "                pass\n",
        ["tests/unit/db/test_segments.py"],
    ),
    Mutant(
        "a failed clip whose other segments go on",
        "db/queue/outcomes.py",
        "        return_to_pending(session, held.job_id)\n",
        "",
        ["tests/unit/db/test_segments.py"],
    ),
    Mutant(
        "attempts that a budget does not count",
        "db/queue/outcomes.py",
        "    spending.charge(session, held.batch_id,",
        "    (lambda *_: None)(session, held.batch_id,",
        ["tests/unit/db/test_budgets.py::test_every_ended_attempt_at_generating_is_counted_whatever_came_of_it"],
    ),
    Mutant(
        "a claim that takes over a lease",
        "db/queue/leases.py",
        "moving(table, StepState.RUNNING, StepState.DISPATCHED)",
        "moving(table, StepState.RUNNING, StepState.DISPATCHED, stays=True)",
        ["tests/unit/db/test_leases.py::test_only_a_dispatched_step_is_claimed"],
    ),
    Mutant(
        "a claim that does not look whether its batch or queue is paused",
        "db/queue/leases.py",
        "            not_paused(table.queue, table.batch_id),\n            # One whose GPU was found bad",
        "            # One whose GPU was found bad",
        ["tests/unit/db/test_leases.py::test_nothing_of_a_paused_batch_or_queue_is_claimed"],
    ),
    Mutant(
        "no heartbeat",
        "tasks/worker/lease_keeper.py",
        "        self._runtime.lease_timer.add(self)\n",
        "        pass\n",
        ["tests/faults/test_smoke.py"],
    ),
    Mutant(
        "no reconciler",
        "tasks/upkeep/timers.py",
        '            self._timers.append(_Timer("reconcile", settings.worker.reconcile_s, self._reconcile))\n',
        "",
        ["tests/faults/test_smoke.py"],
    ),
    Mutant(
        "no dispatcher",
        "tasks/upkeep/timers.py",
        "            while self._dispatcher.poll() is None:",
        "            while False:",
        ["tests/faults/test_smoke.py"],
    ),
    Mutant(
        "a commit that wakes no dispatcher",
        "db/session.py",
        "                self.notifier.notify(after_s=delay_ms / 1000)\n",
        "                pass\n",
        ["tests/unit/tasks/test_timers.py::test_what_is_submitted_is_dispatched_before_the_next_poll"],
    ),
    Mutant(
        "a freed GPU that wakes no dispatcher",
        "db/queue/outcomes.py",
        "    if held.stage is Stage.GENERATE:  # its GPU has room for another\n",
        "    if False:\n",
        ["tests/unit/db/test_notify.py::test_all_that_leaves_steps_waiting_wakes_dispatchers"],
    ),
    Mutant(
        "a dispatcher that believes it listens behind a pooler",
        "db/listen.py",
        "    return any(notice.payload == token for notice in connection.notifies(timeout=_PROOF_S))\n",
        "    return True\n",
        ["tests/unit/db/test_notify.py::test_behind_a_pooler_nothing_is_heard_but_by_a_direct_url"],
    ),
    Mutant(
        "a notice for each commit",
        "db/notify.py",
        "            closing.wait(_AT_MOST_EVERY_S)\n",
        "",
        ["tests/unit/db/test_notify.py::test_many_commits_are_told_by_few_notices"],
    ),
    Mutant(
        "two dispatchers that fill the same room",
        "db/scheduling/dispatch.py",
        "    return bool(connection.execute(_TRY_LOCK).scalar_one())\n",
        "    return True\n",
        ["tests/unit/db/test_dispatch.py::test_one_dispatcher_at_a_time_fills_the_room_and_none_waits_for_it"],
    ),
    Mutant(
        "a dispatcher that found another at work and lets it be",
        "tasks/upkeep/timers.py",
        "            while self._dispatcher.poll() is None:",
        "            if self._dispatcher.poll() is None:",
        ["tests/unit/tasks/test_timers.py::test_a_dispatcher_that_found_another_at_work_looks_again"],
    ),
    Mutant(
        "a finish that gives a GPU's room away past the dispatcher",
        "db/queue/finishing.py",
        "    _queue(session, work, work.segment, following, queue)\n",
        '    _queue(session, work, work.segment, following, queue or "vgen.gpu.cpu.idle")\n',
        ["tests/unit/db/test_dispatch.py::test_a_finish_leaves_what_generates_to_the_dispatcher"],
    ),
    Mutant(
        "a chain that goes on although its batch or queue is paused",
        "db/queue/finishing.py",
        "    if held or paused:\n",
        "    if held:\n",
        ["tests/unit/db/test_dispatch.py::test_what_is_paused_cuts_its_chain"],
    ),
    Mutant(
        "a segment whose message carries the clip's end",
        "pipeline/policy/routes.py",
        "    if stage is Stage.ENCODE and not last_segment:\n",
        "    if False:\n",
        ["tests/unit/pipeline/test_routes.py::test_a_message_carries_the_rest_of_its_chain"],
    ),
    Mutant(
        "a message without the rest of its chain",
        "tasks/messages.py",
        "            for stage, queue in links\n",
        "            for stage, queue in links[:1]\n",
        ["tests/unit/tasks/test_messages.py"],
    ),
    Mutant(
        "a chain that goes on after a finish that cut it",
        "tasks/worker/step.py",
        "    if recorded is None or recorded.finished.queue is None:\n",
        "    if recorded is None:\n",
        ["tests/unit/tasks/test_messages.py"],
    ),
    Mutant(
        "messages acknowledged before the work",
        "tasks/config.py",
        "task_acks_late = True",
        "task_acks_late = False",
        ["tests/faults/test_smoke.py"],
    ),
    Mutant(
        "a reconciler that ends leases which are not over",
        "db/queue/recovery.py",
        "still = () if all_of_them else (table.lease_until < now_ms(),)",
        "still = ()",
        ["tests/unit/db/test_recovery.py::test_a_live_lease_is_left_alone"],
    ),
    Mutant(
        "a reconciler that trusts leases right after an outage",
        "tasks/upkeep/timers.py",
        "            self._quiet_until = time.monotonic() + self._settings.worker.lease_s"
        " + self._settings.worker.reconcile_s\n",
        "",
        ["tests/faults/test_outage.py"],
    ),
    Mutant(
        "a read-only database taken for a bug",
        "db/postgres.py",
        '    event.listen(engine, "handle_error", _read_only_is_away)\n',
        "",
        ["tests/unit/db/test_session.py::test_a_postgres_that_became_read_only_is_away_until_it_is_not"],
    ),
    Mutant(
        "uploads whose damage on the way nobody notices",
        "pipeline/storage/s3.py",
        "    conditionally_calculate_md5(params, **more)\n",
        "    return\n",
        ["tests/faults/test_proxy.py::test_a_put_itself_notices_that_not_everything_arrived"],
    ),
    Mutant(
        "publish that does not look at what is stored",
        "pipeline/stages/publish.py",
        "        _verify(artifact, context)\n",
        "",
        ["tests/unit/pipeline/stages/test_publish.py"],
    ),
    Mutant(
        "a worker that is reserved for a session and claims others' clips",
        "db/queue/leases.py",
        "            ~_reserved_for_others(table, worker),\n",
        "",
        [
            "tests/unit/db/test_reservations.py"
            "::test_a_claim_by_a_reserved_worker_of_what_was_dispatched_to_its_old_queue_finds_nothing"
        ],
    ),
    Mutant(
        "a clip that makes no room for a session",
        "db/queue/leases.py",
        "    return or_(~not_paused(table.queue, table.batch_id), _reserved_for_others(table, table.worker))\n",
        "    return ~not_paused(table.queue, table.batch_id)\n",
        [_BINDING],
    ),
    Mutant(
        "a session's segment that another GPU makes",
        "db/scheduling/dispatch.py",
        "if not batch.of_session}\n",
        "}\n",
        [_BINDING, "tests/unit/db/test_reservations.py::test_sessions_wait_for_a_gpu_of_their_own"],
    ),
    Mutant(
        "a segment that is generated before the one that it goes on from",
        "db/queue/finishing.py",
        "    if stage is Stage.GENERATE and succession.must_wait(session, work):\n",
        "    if False:\n",
        [_SUCCESSION],
    ),
    Mutant(
        "a continuation state that is not handed on",
        "db/queue/finishing.py",
        "            succession.hand_on(session, work, result.continuation)\n",
        "            pass\n",
        [_SUCCESSION],
    ),
    Mutant(
        "segments that go on although the one before was lost",
        "db/sessions/settling.py",
        "    _cancel_followers(session, row.batch_id)\n",
        "",
        ["tests/unit/db/test_stream_sessions.py"],
    ),
    Mutant(
        "a session's batch that closes between two segments",
        "db/clips/batch_closing.py",
        "Job.state.in_(_OPEN)) & ~growing\n",
        "Job.state.in_(_OPEN))\n",
        ["tests/unit/db/test_stream_sessions.py"],
    ),
    Mutant(
        "a GPU that waits for a session at nobody's cost",
        "db/scheduling/reservations.py",
        "        spending.charge_idle(session, item.batch_id, item.queue, idle)\n",
        "        pass\n",
        [
            "tests/unit/db/test_reservations.py"
            "::test_idle_reserved_time_is_charged_and_ends_a_session_whose_budget_it_uses_up"
        ],
    ),
    Mutant(
        "frames that are encoded unread",
        "pipeline/stages/encode.py",
        "        _check_frames(frames, context.check)\n",
        "",
        ["tests/unit/pipeline/stages/test_encode.py"],
    ),
)
