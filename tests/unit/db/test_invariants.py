"""Each rule finds the rows that break it: a rule that can find nothing would check nothing."""

from __future__ import annotations

from sqlalchemy import text

from db import invariants
from db.evals import planning, runs
from db.session import Database
from pipeline.policy.routes import ScorePart
from pipeline.spec import ScoreOptions
from pipeline.states import Stage
from pipeline.work import Outcome
from tests.unit.db.line import Line, result_of
from tests.unit.db.session_line import SessionLine

_SCORED = (
    "INSERT INTO score_runs (id, step_id, batch_id, attempt, started_at, ended_at, outcome) "
    "SELECT 999, id, batch_id, {}, 1, 1, '{}' FROM score_steps"
)
BROKEN: dict[str, tuple[str, ...]] = {
    "sums": ("UPDATE batches SET total = total + 1", "UPDATE jobs SET seq = 7 WHERE id LIKE '%-000000'"),
    "active": ("UPDATE batches SET active = {false}",),
    "job state": (
        "UPDATE jobs SET state = 'waiting' WHERE id = '{generating}'",
        "UPDATE jobs SET state = 'held' WHERE id = '{generating}'",
        "UPDATE jobs SET state = 'in_flight' WHERE id = '{waiting}'",
        "UPDATE jobs SET state = 'failed', finished_at = 1, error_code = 'x' WHERE id = '{generating}'",
        "UPDATE steps SET state = 'waiting', queue = NULL WHERE job_id = '{done}' AND stage = 'publish'",
        "UPDATE steps SET state = 'pending' WHERE job_id = '{done}' AND stage = 'publish'",
    ),
    "one step": (
        "UPDATE steps SET state = 'dispatched', dispatched_at = 1, queue = 'q' "
        "WHERE job_id = '{generating}' AND stage = 'screen'",
    ),
    "roll": ("UPDATE steps SET roll = 2 WHERE job_id = '{waiting}'", "UPDATE jobs SET roll = 2 WHERE id = '{waiting}'"),
    "order": (
        "UPDATE steps SET state = 'failed' WHERE job_id = '{generating}' AND stage = 'screen'",
        "UPDATE steps SET stage = 'encode' WHERE job_id = '{waiting}'",
    ),
    "step fields": (
        "UPDATE steps SET worker = NULL WHERE job_id = '{generating}'",
        "UPDATE steps SET worker = 'w' WHERE job_id = '{waiting}'",
        "UPDATE steps SET attempt = 0 WHERE job_id = '{generating}' AND stage = 'generate'",
        "UPDATE steps SET finished_at = NULL WHERE job_id = '{done}'",
        "UPDATE steps SET finished_at = 1 WHERE job_id = '{waiting}'",
        "UPDATE steps SET dispatched_at = NULL WHERE job_id = '{generating}'",
    ),
    "cancel": (
        "UPDATE jobs SET cancel_requested = {true} WHERE id = '{waiting}'",
        "UPDATE jobs SET cancel_requested = {true} WHERE id = '{held}'",
        "UPDATE jobs SET state = 'cancelled', finished_at = 1 WHERE id = '{done}'",
    ),
    "approval": (
        "UPDATE jobs SET state = 'in_flight' WHERE id = '{held}';"
        "UPDATE steps SET state = 'running', lease_until = 1, queue = 'q', attempt = 1, worker = 'w' "
        "WHERE job_id = '{held}' AND stage = 'generate'",
        "UPDATE jobs SET state = 'held' WHERE id = '{waiting}'",
        "UPDATE jobs SET state = 'blocked', finished_at = 1 WHERE id = '{generating}'",
    ),
    "published": (
        "DELETE FROM artifacts",
        "UPDATE jobs SET state = 'succeeded', finished_at = 1 WHERE id = '{generating}'",
        "UPDATE artifacts SET kind = 'poster'",
        "UPDATE artifacts SET job_id = '{waiting}' WHERE job_id = '{done}'",
        "UPDATE steps SET state = 'skipped' WHERE job_id = '{done}' AND stage = 'publish'",
    ),
    "deleted": (
        "UPDATE jobs SET deleted_at = 1 WHERE id = '{done}'",
        "UPDATE jobs SET deleted_at = 1 WHERE id = '{waiting}'",
    ),
    "artifacts": (
        "UPDATE artifacts SET roll = 2",
        "UPDATE artifacts SET job_id = '{waiting}' WHERE job_id = '{done}'",
        "UPDATE artifacts SET sha256 = 'b'",
    ),
    "accepted": (
        "UPDATE steps SET state = 'failed' WHERE job_id = '{rolled}' AND stage = 'score' AND roll = 2",
        "UPDATE steps SET output = '{{\"accepted\": false}}' WHERE job_id = '{rolled}' AND stage = 'score'",
        "UPDATE steps SET stage = 'score' WHERE job_id = '{done}' AND stage = 'publish'",
    ),
    "rolls": (
        "UPDATE jobs SET roll = 2 WHERE id = '{done}'",
        "UPDATE steps SET output = '{{\"accepted\": true}}' WHERE job_id = '{rolled}' AND stage = 'score'",
    ),
    "scores": ("DELETE FROM scores",),
    "frames": ("UPDATE segments SET frames_sha256 = 'b'", "DELETE FROM segments"),
    "segments": (
        "UPDATE steps SET state = 'pending', finished_at = NULL WHERE job_id = '{done}' AND stage = 'encode'",
        "UPDATE steps SET segment = 1, stage = 'screen' WHERE job_id = '{done}' AND stage = 'generate'",
    ),
    "continuation": ("UPDATE steps SET segment = 1 WHERE job_id = '{generating}' AND stage = 'generate'",),
    "bounds": (
        "UPDATE steps SET errors = 14 WHERE job_id = '{waiting}'",
        "UPDATE steps SET crashes = 3 WHERE job_id = '{waiting}'",
        "UPDATE steps SET faults = 3 WHERE job_id = '{waiting}'",
        "UPDATE steps SET losses = 10 WHERE job_id = '{generating}'",
        "UPDATE steps SET losses = 11 WHERE job_id = '{done}'",
    ),
    "attempts": (
        "DELETE FROM stage_runs",
        "UPDATE stage_runs SET attempt = 2 WHERE job_id = '{done}'",
        "UPDATE steps SET attempt = 2 WHERE job_id = '{generating}' AND stage = 'generate'",
    ),
    "outcome": (
        "UPDATE stage_runs SET outcome = 'retried' WHERE stage = 'publish'",
        "UPDATE steps SET state = 'skipped' WHERE job_id = '{generating}' AND stage = 'screen'",
    ),
    "commits": (
        "INSERT INTO stage_runs (id, step_id, job_id, stage, attempt, started_at, ended_at, outcome) "
        "SELECT 999, step_id, job_id, stage, 2, 1, 1, 'done' FROM stage_runs "
        "WHERE job_id = '{done}' AND stage = 'generate'",
    ),
    "eval_ended": ("UPDATE score_steps SET state = 'pending'", "UPDATE score_steps SET state = 'waiting'"),
    "eval_complete": ("UPDATE score_steps SET state = 'failed'",),
    "score_bounds": ("UPDATE score_steps SET losses = 11", "UPDATE score_steps SET state = 'waiting', crashes = 3"),
    "score_attempts": (_SCORED.format(2, "done"), "UPDATE score_steps SET attempt = 1;" + _SCORED.format(2, "done")),
    "session batch": ("UPDATE batches SET active = {false} WHERE id = '{stream}'",),
    "session jobs": ("UPDATE stream_sessions SET segments = 1 WHERE batch_id = '{stream}'",),
    "session end": (
        "UPDATE stream_sessions SET state = 'complete', ended_at = 1, settled_at = 1, "
        "joined_job_id = '{stream}-000001' WHERE batch_id = '{stream}'",
    ),
    "session order": (
        "UPDATE steps SET attempt = 0 WHERE job_id = '{stream}-000000' AND stage = 'generate'",
        "DELETE FROM stage_runs WHERE job_id = '{stream}-000000' AND stage = 'generate';"
        "DELETE FROM steps WHERE job_id = '{stream}-000000' AND stage = 'generate'",
    ),
    "score_outcome": ("UPDATE score_steps SET attempt = 1;" + _SCORED.format(1, "retried"),),
}


def _rows(line: Line) -> dict[str, str]:
    """Jobs of every kind: done, on a second roll, being generated, held, waiting."""
    line.worker()
    rolled = f"{line.submit(count=1, score=ScoreOptions(metrics=('checks',), reroll=1))}-000000"
    claimed = line.go_on(rolled, Stage.SCORE)
    line.finish(claimed, result_of(claimed, Outcome.REJECTED))
    line.finish_job(rolled)
    batch_id = line.submit(count=4)
    names = {name: f"{batch_id}-00000{number}" for number, name in enumerate(("done", "generating", "held", "waiting"))}
    names["rolled"] = rolled
    line.finish_job(names["done"])
    line.go_on(names["generating"], Stage.GENERATE)
    claimed = line.go_on(names["held"], Stage.SCREEN)
    line.finish(claimed, result_of(claimed, Outcome.HELD))
    with line.database.transaction() as session:
        run_id = runs.open_run(session, rolled.split("-", maxsplit=1)[0], kind="suite", metrics=["checks"])
        planning.plan(session, run_id, rolled.split("-", maxsplit=1)[0], [ScorePart("none", 0, 0)])
        session.execute(text("UPDATE score_steps SET state = 'done'"))
        runs.settle(session)
    names["stream"] = _session_between_two_segments(line)
    names |= {name: f"{names['stream']}-00000{number}" for number, name in enumerate(("segment", "next_segment"))}
    with line.database.transaction() as session:
        session.execute(text(f"UPDATE steps SET state = 'waiting', queue = NULL WHERE job_id = '{names['waiting']}'"))
        session.execute(text(f"UPDATE jobs SET state = 'waiting' WHERE id = '{names['waiting']}'"))
    return names


def _session_between_two_segments(line: Line) -> str:
    """The batch of a session whose first segment is generated, and whose second waits for a GPU."""
    sessions = SessionLine(line.database)
    sessions.worker(name="w2")  # the other one is at work
    opened = sessions.open()
    for number in (0, 1):
        sessions.ask(opened.id, number)
    sessions.make(opened.id, 0, Stage.GENERATE)
    sessions.make(opened.id, 1, Stage.SCREEN)
    with line.database.transaction() as session:
        second = f"job_id = '{opened.batch_id}-000001'"
        session.execute(text(f"UPDATE steps SET state = 'waiting', queue = NULL WHERE {second} AND stage = 'generate'"))
        session.execute(text(f"UPDATE jobs SET state = 'waiting' WHERE id = '{opened.batch_id}-000001'"))
    return opened.batch_id


def _found(database: Database, statements: str, names: dict[str, str]) -> list[invariants.Violation]:
    """What is said after the statements, which are then undone."""
    truth = {"true": "1", "false": "0"} if database.is_sqlite else {"true": "TRUE", "false": "FALSE"}
    with database.transaction() as session:
        for statement in statements.format(**names, **truth).split(";"):
            session.execute(text(statement))
        found = invariants.violations_in(session)
        session.rollback()
    return found


def test_every_rule_is_tried() -> None:
    assert set(BROKEN) == {rule.name for rule in invariants.RULES}


def test_a_broken_rule_is_found(database: Database) -> None:
    # Given rows that keep every rule
    names = _rows(Line(database))
    assert invariants.violations(database) == []

    for name, every in BROKEN.items():
        for statements in every:
            # When somebody breaks one
            found = [item for item in _found(database, statements, names) if item.rule == name]

            # Then that is said, with the job or batch
            assert found, statements
            assert {item.subject for item in found} <= {
                *names.values(),
                *(job_id.split("-")[0] for job_id in names.values()),
            }
            assert name in str(found[0])
