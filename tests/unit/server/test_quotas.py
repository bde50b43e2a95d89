"""Quotas over HTTP: 429 with the code, and when to try again, whichever route would make the clips."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from db.session import Database
from pipeline.settings import load_settings
from server.app import create_app
from service import keys
from service.keys import KeyRule, Quotas
from tests.db_fixtures import sqlite_template

__all__ = ["sqlite_template"]
TWO = {"text": "#: preset = idle\na fox\na hen\n"}
VIDEO = {"prompt": "a fox", "model": "idle", "size": "32x32"}


@pytest.fixture
def database(tmp_path: Path, sqlite_template: Path) -> Iterator[Database]:
    url = load_settings(home=tmp_path).effective_database_url
    shutil.copyfile(sqlite_template, url.removeprefix("sqlite:///"))
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
def client(database: Database, tmp_path: Path) -> TestClient:
    app = create_app(load_settings(home=tmp_path), database, key_rule=KeyRule.ALWAYS)
    return TestClient(app, base_url="http://127.0.0.1:8000")


def _header(database: Database, **quotas: float) -> dict[str, str]:
    key = keys.create(
        database,
        name="ci",
        owner="ada",
        scopes=keys.DEFAULT_SCOPES,
        expires=None,
        by="t",
        quotas=Quotas(**quotas),  # type: ignore[arg-type] - whole where they have to be
    )
    return {"authorization": f"Bearer {key.secret}"}


def _refused(answer: httpx.Response, code: str) -> None:
    assert answer.status_code == 429
    error = answer.json()["error"]
    assert (error["code"], error["type"], "vgen" in error["message"]) == (code, "rate_limit_error", False)


def test_too_many_open_jobs_are_asked_for_again_later(client: TestClient, database: Database) -> None:
    ada = _header(database, max_active_jobs=3)
    stored = client.post("/api/v1/batches", json=TWO, headers=ada)
    assert stored.status_code == 200
    for path, body in (("/api/v1/batches", TWO | {"again": True}), ("/v1/videos", VIDEO | {"n": 2})):
        refused = client.post(path, json=body, headers=ada)
        _refused(refused, "rate_limit_exceeded")
        assert 0 < int(refused.headers["retry-after"]) <= 120
        assert "x-should-retry" not in refused.headers
    assert client.post("/v1/videos", json=VIDEO, headers=ada).status_code == 200

    # What was stored before, and a dry run, make nothing
    again = client.post("/api/v1/batches", json=TWO, headers=ada)
    assert (again.status_code, again.json()["created"]) == (200, False)
    assert client.post("/api/v1/batches", json=TWO | {"dry_run": True}, headers=ada).status_code == 200

    # Another key has its own, and none if nobody gave it any
    free = _header(database)
    assert client.post("/v1/videos", json=VIDEO, headers=free).status_code == 200


def test_a_days_share_is_not_asked_for_again(client: TestClient, database: Database) -> None:
    ada = _header(database, max_daily_clips=2)
    assert client.post("/api/v1/batches", json=TWO, headers=ada).status_code == 200
    refused = client.post("/v1/videos", json=VIDEO, headers=ada)
    _refused(refused, "insufficient_quota")
    assert (refused.headers["x-should-retry"], int(refused.headers["retry-after"]) > 80_000) == ("false", True)
    assert client.get("/api/v1/batches", headers=ada).json()["batches"][0]["total"] == 2
    never = client.post("/v1/videos", json=VIDEO | {"n": 3}, headers=ada)
    _refused(never, "insufficient_quota")
    assert "retry-after" not in never.headers
