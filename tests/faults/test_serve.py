"""Servers are killed at random while clients ask for videos and delete them: nothing is lost, nothing made twice."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select

from db import invariants, schema
from db.models import Batch, Job, RequestKey
from db.session import Database
from tests.serving import Served, serving

BODY = {"model": "idle", "size": "32x32", "num_frames": 5}
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


class _Client(threading.Thread):
    """Asks for videos one after the other; one that was not answered is asked for again, as an SDK does."""

    def __init__(self, name: str, urls: list[str], over: threading.Event) -> None:
        super().__init__(name=name)
        self.answered: dict[str, str] = {}
        self.deleted: set[str] = set()
        self.errors: list[str] = []
        self._client = httpx.Client(timeout=20, verify=False)
        self._urls = urls
        self._over = over

    def run(self) -> None:
        with self._client:
            self._ask()

    def _ask(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            prompt = f"{self.name} {number}"
            by_key = {"idempotency-key": prompt} if number % 2 else None
            video_id = self._until_answered("POST", "/v1/videos", prompt, by_key)
            self.answered[prompt] = video_id
            if number % 3 == 0:
                self._until_answered("DELETE", f"/v1/videos/{video_id}", None, {})
                self.deleted.add(video_id)

    def _until_answered(self, method: str, path: str, prompt: str | None, headers: dict[str, str] | None) -> str:
        tries = 0
        while True:
            own = {"x-stainless-retry-count": str(tries)} if headers is None else headers
            body = None if prompt is None else {"prompt": prompt, **BODY}
            try:
                answer = self._client.request(method, self._urls[-1] + path, json=body, headers=own, timeout=20)
            except httpx.HTTPError:
                tries += 1
                time.sleep(0.05)
                continue
            if answer.status_code == 200 or (method == "DELETE" and answer.status_code == 404 and tries):
                return str(answer.json().get("id", ""))
            self.errors.append(answer.text)
            return ""


@pytest.mark.timeout(300)
def test_what_was_answered_is_there_once_however_often_the_server_was_killed(
    database: Database, tmp_path: Path
) -> None:
    over, urls, chance = threading.Event(), list[str](), random.Random(20)
    clients = [_Client(f"client {number}", urls, over) for number in range(4)]
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
        time.sleep(0.5)
        over.set()
        for client in clients:
            client.join(60)
        _check(database, clients, served)


def _check(database: Database, clients: list[_Client], served: Served) -> None:
    answered = {prompt: video for client in clients for prompt, video in client.answered.items()}
    deleted = {video for client in clients for video in client.deleted}
    assert [error for client in clients for error in client.errors] == []
    assert len(answered) > 2 * KILLS
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
