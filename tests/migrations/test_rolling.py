"""Upgrades while work goes on, tried with a migration that follows the newest: rows stay, workers go on, locks end.

The migration adds a column as the rules of ``migrations/`` want it, so that the code of this release is the release
before it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command as alembic
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from cli.main import run
from db import invariants, schema
from db.clips import deletion
from db.evals import planning, runs, score_steps
from db.models import ScoreRun
from db.queue import recovery
from db.reading import totals
from db.session import Database
from pipeline.errors import ServiceUnavailableError
from pipeline.policy.routes import ScorePart
from pipeline.states import JobState, Stage
from tests.unit.db.line import LEASE_MS, Line
from tests.unit.db.session_line import SessionLine

_NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "9000"
down_revision = {head!r}
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("steps", sa.Column("trial", sa.Integer(), nullable=False, server_default="7"))
    op.add_column("batches", sa.Column("trial", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("batches", "trial")
    op.drop_column("steps", "trial")
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgres" else f"sqlite:///{tmp_path}/db"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
def add_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, this release has one migration more."""

    def add() -> None:
        folder = tmp_path / "versions"
        folder.mkdir()
        (folder / "9000_trial.py").write_text(_NEXT.format(head=schema._head()))
        plain = schema._config

        def config() -> Config:
            made = plain()
            own = Path(str(made.get_main_option("script_location"))) / "versions"
            made.set_main_option("path_separator", "newline")
            made.set_main_option("version_locations", f"{own}\n{folder}")
            return made

        monkeypatch.setattr(schema, "_config", config)

    return add


def _line_with_work(database: Database) -> tuple[Line, str]:
    schema.upgrade(database)
    line = Line(database)
    line.worker(slots=50)
    batch_id = line.submit(count=40)
    line.finish_job(f"{batch_id}-000000")
    line.go_on(f"{batch_id}-000001", Stage.GENERATE)
    return line, batch_id


def _counts(database: Database) -> dict[str, int]:
    with database.reading() as session:
        return {
            table: session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in ("batches", "jobs", "steps", "stage_runs", "artifacts", "segments", "events")
        }


def test_an_upgrade_keeps_every_row_and_lets_those_at_work_finish(
    database: Database, add_migration: Callable[[], None]
) -> None:
    line, batch_id = _line_with_work(database)
    before = _counts(database)
    add_migration()

    # When it begins while a worker is in the middle of a transaction
    working, may_end = threading.Event(), threading.Event()

    def work() -> None:
        with database.transaction() as session:
            session.execute(text("UPDATE steps SET progress_step = progress_step + 1"))
            working.set()
            may_end.wait(30)

    upgrade = threading.Thread(target=lambda: schema.upgrade(database))
    worker = threading.Thread(target=work)
    worker.start()
    assert working.wait(30)
    upgrade.start()
    time.sleep(0.3)  # so that it waits for the worker; it is right, too, if it does not yet
    may_end.set()
    for thread in (worker, upgrade):
        thread.join(60)
        assert not thread.is_alive()

    # Then it is done, nothing is lost, and the release before it goes on with its work
    assert schema.revision(database) == "9000"
    assert _counts(database) == before
    with database.reading() as session:
        assert session.execute(text("SELECT DISTINCT trial FROM steps")).scalars().all() == [7]
    assert line.job(f"{batch_id}-000000").state is JobState.SUCCEEDED
    for number in (1, 2, 39):
        job_id = f"{batch_id}-{number:06d}"
        line.expire(job_id)
        with database.transaction() as session:
            recovery.end_leases(session)
        line.admit()
        line.finish_job(job_id)
    assert invariants.violations(database) == []


def test_tombstones_come_to_a_line_at_work_and_the_release_before_goes_on_writing_its_rows(database: Database) -> None:
    # Given a line of the release before them, with work that ended and work in hand
    line, batch_id = _line_with_work(database)
    in_hand = line.go_on(f"{batch_id}-000002", Stage.SCREEN)
    _take_back(database, to="0010")
    before = _counts(database)

    # When the tables are upgraded, and a process of that release stores another job
    schema.upgrade(database)
    columns = "batch_id, line, variant, spec, state, roll, priority, cancel_requested, created_at"
    with database.transaction() as session:
        session.execute(
            text(
                f"INSERT INTO jobs (id, seq, {columns}) SELECT 'old-000000', 99, {columns} FROM jobs WHERE id = :first"
            ),
            {"first": f"{batch_id}-000039"},
        )
        stored = session.execute(text("SELECT deleted_at, remixed_from FROM jobs WHERE id = 'old-000000'")).one()
        assert tuple(stored) == (None, None)
        session.rollback()

    # Then nothing is lost, work in hand goes on, and what ended can be deleted
    assert schema.check(database) == []
    assert _counts(database) == before
    line.finish(in_hand)
    with database.transaction() as session:
        assert deletion.request(session, f"{batch_id}-000000", by="ada")
    assert invariants.violations(database) == []


def test_sessions_come_to_a_line_at_work_which_closes_batches_as_before(database: Database) -> None:
    # Given a line of the release before them, with work that ended and work in hand
    line, batch_id = _line_with_work(database)
    in_hand = line.go_on(f"{batch_id}-000002", Stage.SCREEN)
    _take_back(database, to="0012")
    before = _counts(database)

    # When the tables are upgraded
    schema.upgrade(database)

    # Then nothing is lost, work in hand goes on, and a session's batch stays open beside those that close
    assert schema.check(database) == []
    assert _counts(database) == before
    line.finish(in_hand)
    sessions = SessionLine(database)
    sessions.worker(name="w2")  # the other one is at work
    opened = sessions.open()
    sessions.ask(opened.id, 0)
    sessions.make(opened.id, 0)
    assert line.batch(opened.batch_id).active
    assert invariants.violations(database) == []


def test_totals_come_to_a_line_at_work_and_count_what_ends_from_then_on(database: Database) -> None:
    # Given a line of the release before them, with work that ended and work in hand
    line, batch_id = _line_with_work(database)
    in_hand = line.go_on(f"{batch_id}-000002", Stage.SCREEN)
    _take_back(database, to="0009")
    before = _counts(database)

    # When the tables are upgraded
    schema.upgrade(database)

    # Then nothing is lost, and work that was in hand is counted as it ends
    assert schema.check(database) == []
    assert _counts(database) == before
    line.finish(in_hand)
    with database.reading(one_instant=True) as session:
        (attempts,) = totals.read(session)["vgen_attempts"].values()
    assert attempts == {totals.COUNTER: 1}


def test_an_upgrade_that_cannot_have_its_lock_gives_up_and_changes_nothing(
    postgres_url: str, add_migration: Callable[[], None]
) -> None:
    database = Database(postgres_url)
    try:
        _line_with_work(database)
        old = schema.revision(database)
        add_migration()
        with database.transaction() as session:
            session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))  # it outlasts the lock timeout
            session.execute(text("LOCK TABLE batches, workers, steps IN ROW EXCLUSIVE MODE"))  # as every UPDATE does
            with pytest.raises(ServiceUnavailableError, match="lock timeout"):
                schema.upgrade(database)
        assert schema.revision(database) == old
        schema.upgrade(database)
        assert schema.revision(database) == "9000"
    finally:
        database.close()


def test_an_upgrade_and_a_submission_do_not_wait_for_each_other(postgres_url: str) -> None:
    database = Database(postgres_url)
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'batches'::regclass")
    try:
        schema.upgrade(database)
        _take_back(database, to="0010")
        upgrade = threading.Thread(target=lambda: schema.upgrade(database))
        with database.transaction() as session:
            session.execute(text("LOCK TABLE batches IN ROW EXCLUSIVE MODE"))  # as the batch's INSERT does
            upgrade.start()
            while not session.scalars(waiting).one():
                time.sleep(0.05)
            session.execute(text("LOCK TABLE jobs IN ROW EXCLUSIVE MODE"))  # as those of its jobs do
        upgrade.join(60)

        assert schema.check(database) == []
    finally:
        database.close()


def test_a_release_refuses_an_older_schema(
    database: Database,
    url: str,
    add_migration: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    schema.upgrade(database)
    add_migration()
    monkeypatch.setenv("VGEN_DATABASE_URL", url)

    for verb in ("status", "list", "sweep", "worker", "dispatcher"):
        if verb == "worker":
            monkeypatch.setenv("VGEN_BROKER_URL", "redis://127.0.0.1:1/0")
        assert run([verb]) == 4, verb
        assert "run `vgen db upgrade`" in capsys.readouterr().err


def _take_back(database: Database, *, to: str) -> None:
    """Make the tables those of an earlier revision."""
    config = schema._config()
    with database.transaction() as session:
        config.attributes["connection"] = session.connection()
        alembic.downgrade(config, to)


def _released_before() -> list[str]:
    """Each revision but the newest."""
    revisions = ScriptDirectory.from_config(schema._config()).walk_revisions()
    return [each.revision for each in revisions][1:]


@pytest.mark.parametrize("before", _released_before())
def test_each_migration_of_ours_keeps_the_rows_and_the_work(database: Database, before: str) -> None:
    # Given the tables of a release before, with work in them
    schema.upgrade(database)
    line = Line(database)
    line.worker(slots=50)
    batch_id = line.submit(count=3)
    line.finish_job(f"{batch_id}-000000")
    _take_back(database, to=before)
    counts = _counts(database)

    # When they are upgraded
    schema.upgrade(database)

    # Then nothing is lost, and the work goes on to its end
    assert schema.check(database) == []
    assert _counts(database) == counts
    for number in (1, 2):
        line.admit()
        line.finish_job(f"{batch_id}-{number:06d}")
    assert invariants.violations(database) == []


def test_score_attempts_of_the_release_before_have_no_rows_and_break_no_rule(database: Database) -> None:
    # Given an evaluation run whose step a worker of the release before is scoring, when the tables are upgraded
    schema.upgrade(database)
    line = Line(database)
    line.worker()
    batch_id = line.submit(count=1)
    line.finish_job(f"{batch_id}-000000")
    with database.transaction() as session:
        run_id = runs.open_run(session, batch_id, kind="batch", metrics=["checks.black"])
        planning.plan(session, run_id, batch_id, [ScorePart("none", 0, 0)])
        (message,) = score_steps.dispatch_waiting(session, window=8, gpu=False)
        claim = {"queues": (message.queue,), "worker": "w1", "lease_ms": LEASE_MS}
        claimed = score_steps.claim(session, message.step_id, **claim)
    assert claimed is not None
    _take_back(database, to="0007")
    schema.upgrade(database)

    # Then that worker, which writes no attempt's row, can give it back
    with database.transaction() as session:
        session.execute(
            text("UPDATE score_steps SET state = 'waiting', queue = NULL, worker = NULL, lease_until = NULL")
        )

    # And the attempts of this release are rows from there on
    with database.transaction() as session:
        score_steps.dispatch_waiting(session, window=8, gpu=False)
        again = score_steps.claim(session, message.step_id, **claim)
        assert again is not None
        score_steps.finish(session, again, unread=0)
        assert [row.attempt for row in session.scalars(select(ScoreRun))] == [2]
    assert invariants.violations(database) == []
