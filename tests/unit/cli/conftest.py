"""A real solo home in tmp_path, a way to call `vgen` in this process, and jobs in any state without a worker."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cli.main import run
from db.clips import jobs
from db.session import Database
from pipeline.files.object_names import media_key
from pipeline.settings import Settings
from pipeline.states import JobState
from pipeline.wiring import make_storage
from pipeline.work import Artifact
from tests.db_fixtures import sqlite_template

__all__ = ["sqlite_template"]


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The lines of a piped table, without its header."""
        return [line.split("\t") for line in self.out.splitlines()[1:]]


Vgen = Callable[..., Outcome]


@pytest.fixture(scope="session", autouse=True)
def _commands_built_once() -> Iterator[None]:
    """typer builds every command anew for each call, as a process needs it once: half of the time of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture
def vgen(capsys: pytest.CaptureFixture[str]) -> Iterator[Vgen]:
    """Runs one command line in this process."""
    before = logging.getLogger().handlers[:]

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    yield call
    logging.getLogger().handlers[:] = before


@dataclass
class Home:
    """A solo home with one submitted file of three lines."""

    folder: Path
    file: Path
    batch_id: str
    job_ids: list[str]
    settings: Settings
    contents: dict[str, bytes] = field(default_factory=dict)

    def database(self) -> Database:
        return Database(self.settings.effective_database_url)

    def succeed(self, job_id: str) -> bytes:
        """Publish a clip for the job, as a worker would; its bytes."""
        data = f"the clip of {job_id}".encode()
        digest = hashlib.sha256(data).hexdigest()
        key = media_key(job_id, digest)
        make_storage(self.settings).put_bytes(key, data, content_type="video/mp4")
        database = self.database()
        with database.transaction() as session:
            jobs.move(session, job_id, JobState.IN_FLIGHT)
            jobs.publish(session, job_id, 1, [Artifact("video", key, digest, len(data), "video/mp4")])
        database.close()
        return data

    def end(self, job_id: str, state: JobState, **error: str) -> None:
        database = self.database()
        with database.transaction() as session:
            jobs.move(session, job_id, JobState.IN_FLIGHT)
            jobs.conclude(session, job_id, state, **error)
        database.close()

    def hold(self, job_id: str) -> None:
        database = self.database()
        with database.transaction() as session:
            jobs.move(session, job_id, JobState.IN_FLIGHT)
            jobs.move(session, job_id, JobState.HELD)
        database.close()


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("a red fox --seed 7\na blue boat\na lighthouse, at night\n", "utf-8")
    return file


@pytest.fixture
def home(tmp_path: Path, prompts: Path, vgen: Vgen, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copyfile(sqlite_template, folder / "vgen.sqlite3")
    monkeypatch.setenv("VGEN_HOME", str(folder))
    submitted = vgen("submit", prompts, "--json").json
    batch_id = submitted["batch"]["id"]
    listed = vgen("list", batch_id, "--json").json
    return Home(folder, prompts, batch_id, [job["id"] for job in listed["jobs"]], Settings(home=folder))
