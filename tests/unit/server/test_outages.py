"""What is away is answered 503 with a time after which clients try again, and never with a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from db import schema
from db.models import Measurement
from db.session import Database
from pipeline.settings import load_settings
from server.app import create_app
from server.health import readiness
from tests.unit.db.line import SHA, Line

AWAY = "postgresql+psycopg://x@127.0.0.1:1/x?connect_timeout=2"


@pytest.fixture
def open_client(tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    databases = []

    def make(url: str | None = None, **settings: Any) -> TestClient:
        loaded = load_settings(home=tmp_path, **settings)
        database = Database(url or loaded.effective_database_url)
        databases.append(database)
        if url is None:
            schema.upgrade(database)
        return TestClient(create_app(loaded, database), base_url="http://127.0.0.1:8000", raise_server_exceptions=False)

    yield make
    for database in databases:
        database.close()


def finished_job(home: Path) -> str:
    database = Database(load_settings(home=home).effective_database_url)
    line = Line(database)
    line.worker()
    job_id = f"{line.submit(count=1)}-000000"
    line.finish_job(job_id)
    database.close()
    return job_id


def check_503(answer: Any) -> None:
    assert answer.status_code == 503, answer.text
    assert 0 < int(answer.headers["retry-after"]) <= 120
    assert answer.json()["error"]["type"] == "server_error"
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/videos", {"prompt": "a fox", "model": "idle"}),
        ("GET", "/v1/videos", None),
        ("GET", "/v1/videos/video_1-000000", None),
        ("GET", "/v1/videos/video_1-000000/content", None),
        ("DELETE", "/v1/videos/video_1-000000", None),
        ("POST", "/v1/videos/video_1-000000/remix", {"prompt": "a fox"}),
        ("POST", "/v1/videos/sync", {"prompt": "a fox", "model": "idle"}),
    ],
)
def test_a_database_that_is_away(
    open_client: Callable[..., TestClient], method: str, path: str, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with open_client(AWAY) as client:
        answer = client.request(method, path, json=body)
    check_503(answer)
    logged = [vars(record) for record in caplog.records if record.name == "server.errors"]
    assert [record["request_id"] for record in logged] == [answer.headers["x-request-id"]]


def test_a_store_that_is_away(open_client: Callable[..., TestClient], tmp_path: Path) -> None:
    away = {
        "storage": "s3://bucket",
        "s3": {"endpoint_url": "http://127.0.0.1:1", "access_key_id": "a", "secret_access_key": "b", "timeout_s": 1},
    }
    with open_client(**away) as client:
        job_id = finished_job(tmp_path)
        check_503(client.get(f"/v1/videos/video_{job_id}/content"))
        # What needs no file is answered
        assert client.get(f"/v1/videos/video_{job_id}").json()["status"] == "completed"
        assert client.post("/v1/videos", json={"prompt": "a fox", "model": "idle"}).status_code == 200


def test_a_download_goes_to_the_store_where_that_is_another_origin(
    open_client: Callable[..., TestClient], tmp_path: Path
) -> None:
    from pipeline.storage import s3  # noqa: PLC0415 - boto3 is slow to load

    there = s3.StoredObject("k", 10, SHA, 0.0)
    settings = {
        "storage": "s3://bucket",
        "s3": {"endpoint_url": "http://127.0.0.1:9000", "access_key_id": "a", "secret_access_key": "b"},
        "serve": {"redirect": True},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3.S3Storage, "stat", lambda self, key: there)
        patch.setattr(s3.S3Storage, "chunks", lambda self, key, start=0, stop=None: iter([b"0123456789"]))
        with open_client(**settings) as client:
            url = f"/v1/videos/video_{finished_job(tmp_path)}/content"
            answer = client.get(url, follow_redirects=False)
            assert answer.status_code == 302
            assert answer.headers["location"].startswith("http://127.0.0.1:9000/bucket/media/")
            assert "X-Amz-Signature=" in answer.headers["location"]
            same = client.get(url, follow_redirects=False, headers={"host": "127.0.0.1:9000"})
            assert (same.status_code, same.content) == (200, b"0123456789")
            assert client.head(url, follow_redirects=False).status_code == 200


def test_a_full_disk_takes_the_server_out_of_the_balance(
    open_client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_client() as client:
        assert client.get("/readyz").status_code == 200
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(readiness.shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))

        answer = client.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["disk: VGEN_STORAGE has no room: 0 MiB are free, and 64 are needed"]


def test_where_no_dispatcher_is_the_server_folds_what_was_measured(
    open_client: Callable[..., TestClient], tmp_path: Path
) -> None:
    database = Database(load_settings(home=tmp_path).effective_database_url)

    def uncounted() -> int:
        with database.reading() as session:
            return session.scalars(select(func.count()).select_from(Measurement)).one()

    with open_client() as client:
        Line(database).submit(count=3)
        before, fresh = client.get("/metrics").text, uncounted()
        with database.transaction() as session:
            session.execute(update(Measurement).values(at=Measurement.at - 3_600_000))
        after = client.get("/metrics").text

    assert fresh > 0
    assert uncounted() == 0
    counted = [line for line in before.splitlines() if line.startswith("vgen_jobs_submitted_total{")]
    assert counted == [line for line in after.splitlines() if line.startswith("vgen_jobs_submitted_total{")] != []
    database.close()
