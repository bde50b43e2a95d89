"""Upgrades while work goes on: the release before each migration on the newest schema, and this one on an older.

The release before is this repository's own history: the commit before the one that added the migration. Its functions
run in a process of their own, driven by its own test helper.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from cli.main import run
from db import invariants, reconciliation, schema
from db.session import Database
from pipeline.errors import ServiceUnavailableError
from pipeline.states import JobState, Stage
from tests.conftest import REPOSITORY
from tests.unit.db.line import Line

MIGRATIONS = sorted(path.name for path in (REPOSITORY / "migrations" / "versions").glob("[0-9]*.py"))
_DRIVER = """
import sys
from pathlib import Path

import db
from db import jobs, reconciliation, schema
from db.session import Database
from pipeline.errors import FatalError
from pipeline.states import JobState, Stage
from tests.unit.db.line import Line

try:
    from db import claims, failures
except ImportError:  # a release that had them in one file
    from db import steps as claims
    from db import steps as failures

assert Path(db.__file__).is_relative_to(Path.cwd()), db.__file__
line = Line(Database(sys.argv[1]))
"""
_MAKE = """
schema.upgrade(line.database)
line.worker()
batch_id = line.submit(count=40)
line.finish_job(f"{batch_id}-000000")
line.go_on(f"{batch_id}-000001", Stage.GENERATE)
print(batch_id)
"""
_WORK = """
line.worker()
for stage in Stage:
    if stage.value in ("enhance", "score"):  # parts of the line only where they are asked for
        continue
    _, job_id, claimed = line.bring_to(stage)
    with line.database.transaction() as session:
        assert claims.renew(session, claimed, lease_ms=60_000).held
        assert failures.fail(session, claimed, FatalError("bug")).recorded
    line.finish_job(job_id)
    assert line.job(job_id).state is JobState.SUCCEEDED
_, job_id, claimed = line.bring_to(Stage.GENERATE)
line.expire(job_id)
with line.database.transaction() as session:
    reconciliation.end_leases(session)
with line.database.transaction() as session:
    assert jobs.cancel(session, job_id)
with line.database.transaction() as session:
    assert jobs.retry(session, job_id)
line.finish_job(job_id)
line.finish_job(sys.argv[2])
print(line.bring_to(Stage.ENCODE)[1])
"""


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"no history to take the release before from: {done.stderr.decode(errors='replace').strip()[:200]}")
    return done.stdout


@pytest.fixture(scope="module", params=MIGRATIONS[-2:])
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the release before this migration: one of the newest two, each of which goes to the newest schema."""
    added = _git("log", "--diff-filter=A", "--format=%H", "--", f"migrations/versions/{request.param}").decode().split()
    if not added:
        pytest.skip(f"{request.param} is not committed yet, or the clone is shallow")
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(fileobj=io.BytesIO(_git("archive", f"{added[-1]}^"))) as archive:
        # It is our own; Python before 3.11.4 has no filter.
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgres" else f"sqlite:///{tmp_path}/db"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


def _run(release: Path, script: str, *arguments: str) -> str:
    """What the earlier release's functions print; fails the test with their traceback."""
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER + script, *arguments],
        cwd=release,
        env={**os.environ, "PYTHONPATH": str(release), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_the_release_before_works_on_the_new_schema_and_takes_turns_with_this_one(
    release: Path, database: Database, url: str
) -> None:
    schema.upgrade(database)
    line = Line(database)
    _, ours, claimed = line.bring_to(Stage.SCREEN)
    line.finish(claimed)

    theirs = _run(release, _WORK, url, ours)

    assert line.job(ours).state is JobState.SUCCEEDED  # begun by us, ended by them
    line.expire(theirs)
    with database.transaction() as session:
        assert reconciliation.end_leases(session) == 1
    line.worker(slots=50)
    line.finish_job(theirs)  # begun by them, ended by us
    assert line.job(theirs).state is JobState.SUCCEEDED
    assert invariants.violations(database) == []


def test_an_upgrade_keeps_every_row_and_lets_those_at_work_finish(release: Path, database: Database, url: str) -> None:
    batch_id = _run(release, _MAKE, url)
    before = _counts(database)

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

    # Then it is done, and nothing is lost
    assert schema.check(database) == []
    assert _counts(database) == before
    line = Line(database)
    line.worker(slots=50)
    assert line.job(f"{batch_id}-000000").state is JobState.SUCCEEDED
    for number in (1, 2, 39):
        job_id = f"{batch_id}-{number:06d}"
        line.expire(job_id)
        with database.transaction() as session:
            reconciliation.end_leases(session)
        line.admit()  # what the release before left out of a row is filled in first, and used at the next look
        line.finish_job(job_id)
    assert invariants.violations(database) == []


def _counts(database: Database) -> dict[str, int]:
    with database.reading() as session:
        return {
            table: session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in ("batches", "jobs", "steps", "stage_runs", "artifacts", "segments", "events")
        }


def test_an_upgrade_that_cannot_have_its_lock_gives_up_and_changes_nothing(release: Path, postgres_url: str) -> None:
    database = Database(postgres_url)
    try:
        _run(release, _MAKE, postgres_url)
        old = schema.revision(database)
        with database.transaction() as session:
            session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))  # it outlasts the lock timeout
            session.execute(text("LOCK TABLE batches, workers, steps IN ROW EXCLUSIVE MODE"))  # as every UPDATE does
            with pytest.raises(ServiceUnavailableError, match="lock timeout"):
                schema.upgrade(database)
        assert schema.revision(database) == old
        schema.upgrade(database)
        assert schema.check(database) == []
    finally:
        database.close()


def test_this_release_refuses_an_older_schema(
    release: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(release, "schema.upgrade(line.database)", url)
    monkeypatch.setenv("VGEN_DATABASE_URL", url)

    for command in ("status", "list", "sweep", "worker", "dispatcher"):
        if command == "worker":
            monkeypatch.setenv("VGEN_BROKER_URL", "redis://127.0.0.1:1/0")
        assert run([command]) == 4, command
        assert "run `vgen db upgrade`" in capsys.readouterr().err
