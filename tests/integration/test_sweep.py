"""A sweep removes what nobody needs, and never what a row points at; on a real folder and a real S3 server."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from db import events
from db.clips import cancel_retry_approve
from db.models import ArtifactRow, Batch, Checkpoint, Job
from db.queue import outcomes
from db.session import Database, now_ms
from pipeline.errors import RefusedError
from pipeline.outputs import EncodeOutput, ObjectRef
from pipeline.settings import Settings, load_settings
from pipeline.states import JobState, Stage
from pipeline.storage.base import Storage, StoredObject
from pipeline.wiring import make_storage
from pipeline.work import Artifact, StageResult
from tasks.upkeep.sweeper import Report, sweep_if_due, sweep_once
from tests.db_fixtures import (
    _postgres_engine,
    _sqlite_engine,
    database,
    postgres_database,
    sqlite_database,
    sqlite_template,
)
from tests.unit.db.line import Line

__all__ = ["_postgres_engine", "_sqlite_engine", "database", "postgres_database", "sqlite_database", "sqlite_template"]
OLD_S = 30 * 24 * 3600


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", storage=str(tmp_path / "store"))


@pytest.fixture
def store(settings: Settings) -> Storage:
    return make_storage(settings)


class World:
    """A line, a store, and what they hold."""

    def __init__(self, database: Database, store: Storage, settings: Settings) -> None:
        self.line, self.store, self.settings = Line(database), store, settings
        self.root = Path(settings.effective_storage)

    def put(self, key: str, *, old: bool = True, data: bytes = b"bytes") -> str:
        self.store.put_bytes(key, data, content_type="text/plain")
        if old:
            self.age(key)
        return key

    def age(self, key: str) -> None:
        past = time.time() - OLD_S
        os.utime(self.root / key, (past, past))

    def sweep(self, **changes: Any) -> Report:
        return sweep_once(self.line.database, self.store, self.settings, **changes)

    def keys(self) -> set[str]:
        return {found.key for found in self.store.list("")}

    def published(self) -> tuple[str, str]:
        """A job that succeeded, with its clip in the store: job id and key."""
        _, job_id, claimed = self.line.bring_to(Stage.PUBLISH)
        sha = hashlib.sha256(b"bytes").hexdigest()
        key = self.put(f"media/{job_id}/{sha}.mp4")
        self.line.finish(claimed, StageResult(None, artifacts=(Artifact("video", key, sha, 5, "video/mp4"),)))
        return job_id, key

    def checkpoint(self, job_id: str, *, old: bool = True) -> str:
        key = self.put(f"checkpoints/{job_id}/1-0-2-abc.safetensors", old=old)
        values = {"roll": 1, "segment": 0, "final": False, "attempt": 1, "step": 2, "total": 4, "numerics": {}}
        with self.line.database.transaction() as session:
            session.execute(
                insert(Checkpoint).values(
                    job_id=job_id, key=key, sha256="a" * 64, size=5, created_at=now_ms(), **values
                )
            )
        return key


@pytest.fixture
def world(database: Database, store: Storage, settings: Settings) -> World:
    return World(database, store, settings)


def test_old_orphans_go_and_fresh_ones_and_foreign_ones_stay(world: World) -> None:
    job_id, published = world.published()
    gone = [
        world.put(f"media/{job_id}/{'0' * 64}.mp4"),  # of an attempt that lost its lease
        world.put("media/no-such-job/x.mp4"),
        world.put("checkpoints/no-such-job/1-0-2-abc.safetensors"),
        world.put("work/x"),
        world.put(f"inputs/{'1' * 64}"),
        world.put("vgen-check/abcd"),
    ]
    fresh = world.put("media/no-such-job/y.mp4", old=False)
    foreign = world.put("theirs/z")

    report = world.sweep()

    assert world.keys() == {published, fresh, foreign}
    assert (report.counts["orphan"], report.size) == (len(gone), 5 * len(gone))
    assert {item.name for item in report.first} == set(gone)


def test_what_a_row_points_at_stays_however_old_it_is(world: World) -> None:
    _, published = world.published()
    _, running, _ = world.line.bring_to(Stage.GENERATE)
    _, failed, claimed = world.line.bring_to(Stage.ENCODE)
    kept = {
        published,
        world.put(f"media/{running}/{'2' * 64}.mp4"),  # an encode step may be about to record it
        world.checkpoint(running),
        world.put(f"media/{failed}/{'3' * 64}.mp4"),
        *(world.put(f"inputs/{digit * 64}") for digit in "45678a"),
    }
    world.put(f"inputs/{'9' * 64}")
    video = ObjectRef(key=f"media/{failed}/{'3' * 64}.mp4", sha256="3" * 64, size=5)
    world.line.finish(claimed, StageResult(EncodeOutput(video=video, probe={})))
    with world.line.database.transaction() as session:
        cancel_retry_approve.cancel(session, failed)  # a retry goes on from what it had encoded
        refs = [{"sha256": digit * 64, "media_type": "image/png", "name": "a.png"} for digit in "45678"]
        inputs: dict[str, object] = {
            "image": refs[0],
            "last_image": refs[1],
            "video": refs[2],
            "reference_images": refs[3:],
        }
        lora = {"file": {"sha256": "a" * 64, "media_type": "x", "name": "a.safetensors"}}
        inputs["loras"] = [lora]
        session.execute(update(Job).where(Job.id == running).values(spec={**world.line.job(running).spec, **inputs}))

    world.sweep()

    assert world.keys() == kept


def test_a_dry_run_says_the_same_and_removes_nothing(world: World) -> None:
    world.published()
    _, job_id, _ = world.line.bring_to(Stage.SCREEN)
    world.put("work/x")
    world.put("media/no-such-job/x.mp4")
    world.checkpoint(job_id)
    world.line.change(job_id, only_running=True, lease_until=1)
    before = world.keys(), world.line.snapshot()

    said = world.sweep(dry_run=True)

    assert (world.keys(), world.line.snapshot()) == before
    assert said.dry_run
    assert said.counts == world.sweep().counts
    assert said.counts["orphan"] == 2


class Meddling:
    """A store in which something happens right after it was asked for an object's age."""

    def __init__(self, store: Storage, then: Callable[[str], None]) -> None:
        self._store, self._then = store, then

    def stat(self, key: str) -> StoredObject | None:
        found = self._store.stat(key)
        if not key.startswith("vgen-check"):
            self._then(key)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_an_object_that_is_put_again_meanwhile_stays(world: World) -> None:
    key = world.put("media/no-such-job/x.mp4")
    listed = list(world.store.list("media/"))

    class Refreshed(Meddling):
        def list(self, prefix: str) -> Iterator[StoredObject]:
            return iter(listed if prefix == "media/" else ())

    world.put(key, old=False)  # after the listing, as a publisher does with what it finds
    sweep_once(world.line.database, Refreshed(world.store, lambda _: None), world.settings)  # type: ignore[arg-type]

    assert world.keys() == {key}


def test_an_object_that_is_recorded_meanwhile_stays(world: World) -> None:
    job_id, published = world.published()
    with world.line.database.transaction() as session:
        session.query(ArtifactRow).delete()
        session.query(Job).filter(Job.id == job_id).update({"state": JobState.CANCELLED, "cancel_requested": True})

    def record(key: str) -> None:
        with world.line.database.transaction() as session:
            session.query(Job).filter(Job.id == job_id).update({"state": JobState.SUCCEEDED, "cancel_requested": False})
            sha = key.rsplit("/", maxsplit=1)[-1].removesuffix(".mp4")
            values = {"roll": 1, "key": key, "sha256": sha, "size": 5, "media_type": "video/mp4", "created_at": 1}
            session.execute(insert(ArtifactRow).values(job_id=job_id, kind="video", **values))

    meddling = Meddling(world.store, record)
    sweep_once(world.line.database, meddling, world.settings)  # type: ignore[arg-type]

    assert world.keys() == {published}


def test_checkpoints_of_ended_jobs_go_with_their_rows(world: World) -> None:
    done, clip = world.published()
    _, failed, claimed = world.line.bring_to(Stage.GENERATE)
    _, running, _ = world.line.bring_to(Stage.GENERATE)
    with world.line.database.transaction() as session:
        outcomes.fail(session, claimed, RefusedError("bug", code="bug"))
    kept = {clip, world.checkpoint(failed, old=False), world.checkpoint(running)}
    world.checkpoint(done, old=False)

    assert world.sweep().counts["checkpoint"] == 1
    assert world.keys() == kept

    # and of a failed job once nobody has tried it again for long
    with world.line.database.transaction() as session:
        session.execute(update(Job).where(Job.id == failed).values(finished_at=1))
    assert world.sweep().counts["checkpoint"] == 1
    assert world.keys() == {key for key in kept if failed not in key}


def test_retention_ends_clips_and_history_of_finished_batches_only(world: World) -> None:
    job_id, clip = world.published()
    open_job, open_clip = world.published()
    open_batch = open_job.split("-")[0]
    with world.line.database.transaction() as session:
        session.execute(update(Job).where(Job.id.in_([job_id, open_job])).values(finished_at=1))
        session.execute(update(Batch).where(Batch.id == open_batch).values(active=True))  # as after a retry
    assert world.sweep().counts["media"] == 0  # kept for ever unless a setting says otherwise

    world.settings = load_settings(
        home=world.settings.home, storage=world.settings.storage, retention={"days": 10, "history_days": 10}
    )
    report = world.sweep()

    assert world.keys() == {open_clip} != {clip}
    assert report.counts["media"] == 1
    assert report.counts["history"] > 3
    with world.line.database.reading() as session:
        told = [event.kind for event in events.of_batch(session, job_id.split("-")[0])]
    assert told == ["media_removed", "history_removed"]
    again = world.sweep()
    assert (again.counts["media"], again.counts["history"]) == (0, 0)
    with world.line.database.transaction() as session:
        session.execute(update(Batch).where(Batch.id == open_batch).values(active=False))


def test_what_killed_processes_left_on_this_host_goes(world: World) -> None:
    _, job_id, _ = world.line.bring_to(Stage.GENERATE)
    handoff, cache = world.settings.effective_handoff_dir, world.settings.effective_cache_dir / "models"
    build = cache / ".tiny-wan-v1.abc"
    for folder in (handoff, build, cache / "tiny-wan-v1", world.root / "media"):
        folder.mkdir(parents=True)
    stray = [handoff / f"{job_id}.1.0.7.e1.mp4", build / "x", world.root / "media" / ".vgen-part-1-a"]
    kept = [handoff / f"{job_id}.1.0.1.rgb", handoff / "handoff.id", cache / "tiny-wan-v1" / "x"]
    for path in (*stray, *kept):
        path.write_bytes(b"x")
        os.utime(path, (time.time() - OLD_S,) * 2)
    fresh = handoff / f"{job_id}.1.0.6.rgb"
    fresh.write_bytes(b"x")
    os.utime(build, (time.time() - OLD_S,) * 2)

    report = world.sweep()

    assert not any(path.exists() for path in (*stray, build))
    assert all(path.exists() for path in (*kept, fresh))
    assert {kind: report.counts[kind] for kind in ("handoff", "model_build", "unfinished")} == {
        "handoff": 1,
        "model_build": 1,
        "unfinished": 1,
    }


def test_ten_thousand_objects_are_swept_in_pages(sqlite_database: Database, store: Storage, settings: Settings) -> None:
    world = World(sqlite_database, store, settings)
    past = time.time() - OLD_S
    for number in range(10_000):
        path = world.root / "media" / f"gone-{number // 100}" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (past, past))
    _, published = world.published()

    report = world.sweep()

    assert report.counts["orphan"] == 10_000
    assert len(report.first) == 1_000
    assert world.keys() == {published}


def test_a_second_beat_finds_nothing_to_do(world: World) -> None:
    asked = []

    def storage() -> Storage:
        asked.append(1)
        return world.store

    def again() -> bool:
        return sweep_if_due(world.line.database, storage, world.settings) is not None

    assert not again()  # nothing was ever submitted
    batch_id = world.line.submit(count=1)
    assert not again()  # nothing can be old yet
    with world.line.database.transaction() as session:
        session.execute(update(Batch).where(Batch.id == batch_id).values(created_at=1))
    assert again()
    assert not again()
    assert len(asked) == 1


def test_an_s3_store_is_swept_too(database: Database, s3: Any, tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"home": tmp_path / "home", "storage": f"{s3.storage}/here", "s3": s3.s3, "sweep": {"orphan_age_h": 0}}
    )
    world = World(database, make_storage(settings), settings)
    _, job_id, _ = world.line.bring_to(Stage.PUBLISH)
    for number in range(5):
        world.put(f"media/{job_id}/{number}", old=False)
        world.put(f"work/{number}", old=False)

    assert world.sweep(dry_run=True).counts["orphan"] == 5
    assert world.sweep().counts["orphan"] == 5
    assert world.keys() == {f"media/{job_id}/{number}" for number in range(5)}


def _cloned(folder: Path, link: str, target: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder as a repository may bring it: with a link in its home that leads to somebody's files."""
    project, place = folder / "project", folder / "project" / "vgen-home" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(target)
    monkeypatch.chdir(project)
    return project


@pytest.mark.parametrize(
    "link",
    [
        *("", "storage", "storage/media", "storage/inputs", "storage/media/job", "storage/checkpoints"),
        *("storage/states", "storage/work", "handoff", "cache", "cache/models"),
    ],
)
def test_nothing_is_removed_through_a_link_that_came_with_the_current_folder(
    tmp_path: Path, link: str, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given somebody's old files where such a link leads, by every name that a sweep removes elsewhere
    theirs = tmp_path / "theirs"
    names = ("a.1.2.3", "media/job/x.mp4", "job/x.mp4", "x.mp4", "inputs/x", "states/x", "checkpoints/job/x", "work/x")
    inner = (
        "storage/media/job/x.mp4",
        "handoff/a.1.2.3",
        "cache/models/.git/config",
        "models/.git/config",
        ".git/config",
    )
    files = [theirs / name for name in (*names, *inner)]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("thesis")
        for path in (file, *file.parents[: len(file.relative_to(theirs).parts)]):
            os.utime(path, (0, 0))
    _cloned(tmp_path, link, theirs, monkeypatch)
    settings = load_settings()

    # When the store is swept, on its own and by command
    sweep_if_due(sqlite_database, lambda: make_storage(settings), settings)
    with contextlib.suppress(RefusedError):
        sweep_once(sqlite_database, make_storage(settings), settings)
    if link.startswith("storage/media"):
        make_storage(settings).delete("media/job/x.mp4")

    # Then all are there
    assert all(file.exists() for file in files)


def test_a_sweep_says_which_link_it_does_not_follow(
    tmp_path: Path, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    project = _cloned(tmp_path, "storage", tmp_path / "theirs", monkeypatch)
    settings = load_settings()

    with pytest.raises(RefusedError, match=f"VGEN_STORAGE .*VGEN_TRUSTED_FOLDERS={project}"):
        sweep_once(sqlite_database, make_storage(settings), settings)


def test_a_trusted_folder_may_link_its_store_elsewhere(
    tmp_path: Path, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = tmp_path / "disk" / "media" / "job" / "x.mp4"
    orphan.parent.mkdir(parents=True)
    orphan.write_text("old")
    os.utime(orphan, (0, 0))
    project = _cloned(tmp_path, "storage", tmp_path / "disk", monkeypatch)
    settings = load_settings(trusted_folders=(project,))

    sweep_once(sqlite_database, make_storage(settings), settings)

    assert not orphan.exists()
