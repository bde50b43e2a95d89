"""Running the line in tests: a home, a batch in it, solo runs over it, and what must hold when they have ended."""

from __future__ import annotations

import faulthandler
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import select, text

from cli.batches import prompt_file
from cli.options import BatchChoices, FieldOptions
from db import schema
from db.clips import batches, cancel_retry_approve
from db.evals import score_steps
from db.models import ArtifactRow, Job, StageRun
from db.session import Database
from pipeline.settings import Settings, load_settings
from pipeline.states import JobState, Stage
from pipeline.wiring import make_storage
from service import submission
from tasks.hosts.home_lock import HomeLock
from tasks.hosts.solo import SoloLine
from tests.rules import keeps_every_rule

LIMIT_S = 100.0
"""No wait here is expected to come near it: a loaded machine is slow, and a hang must still be told."""
IDLE = {"preset": "idle"}
UNSETTLED = (JobState.WAITING, JobState.IN_FLIGHT)


def settings_for(folder: Path, **changes: object) -> Settings:
    """Settings of a solo home in ``folder`` with quick timers."""
    quick = {"control_s": 0.1, "dispatch_s": 0.15, "grace_s": 2.0}
    return load_settings(home=folder / "home", worker=quick, **changes)


@contextmanager
def home_of(settings: Settings) -> Iterator[Database]:
    """The home's database with its tables."""
    database = Database(settings.effective_database_url)
    try:
        schema.upgrade(database)
        yield database
        keeps_every_rule(database)
    finally:
        database.close()


def write_jobs(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """A .jsonl prompt file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def submit(
    settings: Settings, database: Database, lines: Sequence[Mapping[str, Any]], choices: BatchChoices | None = None
) -> str:
    """Store the lines as `vgen submit` does; the batch's id."""
    choices = choices or BatchChoices()
    file = write_jobs(settings.home.parent / "prompts.jsonl", lines)
    parsed = prompt_file.read(str(file), FieldOptions(), settings)
    options = submission.batch_options(choices, settings, parsed.scoring)
    return submission.store(parsed, options, settings=settings, database=database, again=True).batch_id


@contextmanager
def solo(settings: Settings, database: Database) -> Iterator[SoloLine]:
    """The line at work, under the home's lock."""
    lock = HomeLock(settings.home)
    assert lock.acquire(), "another test works in this home"
    try:
        with SoloLine(settings, database) as line:
            yield line
        assert line.error is None
    finally:
        lock.release()


def work_off(settings: Settings, database: Database, batch_id: str) -> None:
    """Run the line until nothing of the batch can move without a person."""
    with solo(settings, database) as line:
        until_settled(database, batch_id, line)


def until_settled(database: Database, batch_id: str, line: SoloLine | None = None) -> None:
    def settled() -> bool:
        assert line is None or line.error is None
        found = states(database, batch_id)
        return not any(found[state] for state in UNSETTLED) and not scoring(database, batch_id)

    until(settled, lambda: f"still at work: {states(database, batch_id)}")


def until(condition: Callable[[], bool], say: Callable[[], str] = lambda: "it did not happen") -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() >= end:
            faulthandler.dump_traceback()  # where each worker of a line in this process stands
            raise AssertionError(say())
        time.sleep(0.05)


def states(database: Database, batch_id: str) -> dict[JobState, int]:
    with database.reading() as session:
        return batches.counts(session, [batch_id])[batch_id]


def scoring(database: Database, batch_id: str) -> int:
    """Steps of evaluation runs over the batch that are still to be done."""
    with database.reading() as session:
        return sum(score_steps.left(session, [batch_id]).values())


def job_list(database: Database, batch_id: str) -> list[Job]:
    """The batch's jobs in the order of its file."""
    with database.reading() as session:
        return list(batches.job_rows(session, batch_id))


def job_states(database: Database, batch_id: str) -> list[JobState]:
    return [job.state for job in job_list(database, batch_id)]


def cancel(database: Database, job_id: str) -> None:
    with database.transaction() as session:
        assert cancel_retry_approve.cancel(session, job_id)


def denoises(database: Database, batch_id: str) -> bool:
    """Whether a generator has said that it made a step."""
    with database.reading() as session:
        return any(step.progress_step > 0 for step, _ in batches.running_steps(session, batch_id))


def generating(database: Database, batch_id: str) -> list[str]:
    """The jobs whose generate step is claimed."""
    with database.reading() as session:
        return [step.job_id for step, _ in batches.running_steps(session, batch_id) if step.stage is Stage.GENERATE]


def runs_of(database: Database, job_id: str) -> list[StageRun]:
    """The job's finished attempts, oldest first."""
    with database.reading() as session:
        return list(session.scalars(select(StageRun).where(StageRun.job_id == job_id).order_by(StageRun.id)))


def artifacts_of(database: Database, job_id: str) -> dict[str, ArtifactRow]:
    with database.reading() as session:
        return {row.kind: row for row in session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job_id))}


def stored_bytes(settings: Settings, row: ArtifactRow) -> bytes:
    """What the store holds for the artifact."""
    target = settings.home.parent / "fetched"
    make_storage(settings).download(row.key, target)
    return target.read_bytes()


def sidecar_of(settings: Settings, database: Database, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stored_bytes(settings, artifacts_of(database, job_id)["sidecar"]))
    return found


def assert_published_once(settings: Settings, database: Database, batch_id: str) -> None:
    """Invariants 2 and 4: the sums hold, and each succeeded job has its four files, whole, and nobody else has any."""
    keeps_every_rule(database)
    with database.reading() as session:
        if database.is_sqlite:
            assert session.execute(text("PRAGMA integrity_check")).scalars().all() == ["ok"]
    for job in job_list(database, batch_id):
        found = artifacts_of(database, job.id)
        if job.state is not JobState.SUCCEEDED:
            assert found == {}, f"{job.id} is {job.state} and has {sorted(found)}"
            continue
        assert set(found) == {"video", "poster", "strip", "sidecar"}
        for row in found.values():
            content = stored_bytes(settings, row)
            assert (len(content), hashlib.sha256(content).hexdigest()) == (row.size, row.sha256), row.key


def frames_by_job(settings: Settings, database: Database, batch_id: str) -> list[tuple[str, str]]:
    """(raw frames' sha256, video's sha256) of each job, in the file's order."""
    return [
        (sidecar_of(settings, database, job.id)["frames"]["sha256"], artifacts_of(database, job.id)["video"].sha256)
        for job in job_list(database, batch_id)
    ]


def left_in_handoff(settings: Settings) -> list[str]:
    """Files that are neither frames to come nor the folder's id."""
    return sorted(path.name for path in settings.effective_handoff_dir.iterdir() if path.name != "handoff.id")


def processes_with(marker: str) -> list[int]:
    """Processes, zombies aside, whose command line or environment has ``marker``."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            has = any(marker.encode() in (folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:  # it ended, or is another user's
            continue
        if has:
            found.append(int(folder.name))
    return found
