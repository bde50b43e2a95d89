"""`vgen serve` on PostgreSQL, which only serves: several at once, keys, and the events of work that others do."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from db.session import Database
from tests.cli_process import vgen
from tests.integration.test_serve_native import entries, streamed
from tests.serving import Served, serving
from tests.unit.db.line import Line
from tests.unit.server.routes import PUBLIC, every_route


@pytest.fixture
def database(postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("VGEN_DATABASE_URL", postgres_url)
    monkeypatch.setenv("VGEN_BROKER_URL", redis_url)
    assert vgen("db", "upgrade").returncode == 0
    opened = Database(postgres_url)
    yield opened
    opened.close()


@pytest.fixture
def servers(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Served]]:
    monkeypatch.setenv("VGEN_STORAGE", str(tmp_path / "store"))
    with ExitStack() as stack:
        yield [stack.enter_context(serving(tmp_path)) for _ in range(2)]


def test_what_one_server_takes_another_knows_and_tells_as_it_happens(database: Database, servers: list[Served]) -> None:
    first, second = servers
    line = Line(database)
    batch_id = line.submit(count=4, owner="ada")
    path = f"/api/v1/batches/{batch_id}/events"
    told: list[tuple[str | None, object]] = []
    reader = threading.Thread(target=lambda: told.extend(entries(streamed(second, path))))
    reader.start()

    # When the work is done while it is followed
    line.worker(slots=10)
    for number in range(4):
        line.finish_job(f"{batch_id}-{number:06d}")
    reader.join(60)

    # Then the stream has ended, and both servers tell the same history
    assert not reader.is_alive()
    page = first.client.get(path, params={"limit": 1000}).json()
    assert [data for _, data in told] == page["entries"]
    assert sum(entry["kind"] == "job_succeeded" for entry in page["entries"]) == 4
    assert len({place for place, _ in told}) == len(told)


def test_a_submission_key_names_one_batch_whichever_server_takes_it(servers: list[Served]) -> None:
    answers = [server.client.post("/api/v1/batches", json={"text": "a fox", "key": "k"}).json() for server in servers]

    assert [answer["created"] for answer in answers] == [True, False]
    assert answers[0]["batch"]["id"] == answers[1]["batch"]["id"]


def test_ids_with_what_no_row_can_hold_are_refused_everywhere(servers: list[Served]) -> None:
    for route in every_route():
        if route.path in PUBLIC or not route.parameters or "/characters" in route.path:  # there are none: 501
            continue
        path = route.at(**dict.fromkeys(route.parameters, "a%00b"))
        answer = servers[0].client.request(route.method, path, json={"prompt": "a"})
        assert answer.status_code in (400, 404), (route, answer.text)


def test_a_key_that_one_server_used_is_refused_by_another_once_it_is_revoked(servers: list[Served]) -> None:
    made = json.loads(vgen("keys", "create", "ci", "--json").stdout)
    headers = {"x-api-key": made["secret"]}

    def statuses() -> list[int]:
        return [server.client.get("/api/v1/batches", headers=headers).status_code for server in servers]

    assert statuses() == [200, 200]
    assert vgen("keys", "revoke", made["key"]["id"]).returncode == 0
    assert statuses() == [401, 401]
