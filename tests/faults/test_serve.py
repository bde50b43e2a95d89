"""Servers are killed at random while clients ask for videos and delete them: nothing is lost, nothing made twice."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from db import invariants, schema
from db.models import Batch, Job, RequestKey
from db.session import Database
from tests.cli_process import until
from tests.faults.http_clients import Asked, Client, together
from tests.serving import Served, serving

KILLS = 3


@pytest.fixture
def database(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A cluster's database; no worker is there, so that what was accepted stays as it was accepted."""
    monkeypatch.setenv("VGEN_DATABASE_URL", postgres_url)
    monkeypatch.setenv("VGEN_BROKER_URL", "redis://127.0.0.1:1/0")
    opened = Database(postgres_url)
    schema.upgrade(opened)
    yield opened
    opened.close()


@pytest.mark.timeout(300)
def test_what_was_answered_is_there_once_however_often_the_server_was_killed(
    database: Database, tmp_path: Path
) -> None:
    urls, chance = list[str](), random.Random(20)
    clients = [Client(f"client {number}", lambda: urls[-1:]) for number in range(4)]
    for kill in range(KILLS):
        with serving(tmp_path) as served:
            urls.append(str(served.client.base_url).rstrip("/"))
            if kill == 0:
                for client in clients:
                    client.start()
            time.sleep(chance.uniform(0.2, 1.5))
            served.process.send_signal(signal.SIGKILL)
            served.process.wait(30)
    with serving(tmp_path) as served:
        urls.append(str(served.client.base_url).rstrip("/"))
        until(lambda: sum(len(client.asked.answered) for client in clients) > 2 * KILLS)
        _check(database, together(clients), served)


def _check(database: Database, asked: Asked, served: Served) -> None:
    answered, deleted = asked.answered, asked.deleted
    assert asked.problems == []
    with database.reading() as session:
        rows = session.scalars(select(Job)).all()
        by_prompt = {job.spec["prompt"]: f"video_{job.id}" for job in rows}
        assert len(by_prompt) == len(rows), "a prompt has two jobs"
        # One more may be stored than was answered: of each client, the one that it was asking for at the end.
        assert answered.items() <= by_prompt.items()
        assert {f"video_{job.id}" for job in rows if job.deleted_at is not None} == deleted
        keys = session.scalars(select(func.count()).select_from(RequestKey)).one()
        assert keys == session.scalars(select(func.count()).select_from(Batch)).one()
    assert invariants.violations(database) == []
    kept = next(video for video in answered.values() if video not in deleted)
    assert served.client.get(f"/v1/videos/{kept}").json()["status"] == "queued"
