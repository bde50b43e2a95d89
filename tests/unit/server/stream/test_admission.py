"""Who may open a stream, and how a browser says who it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse

from db.session import Database
from pipeline.settings import load_settings
from pipeline.settings.project import DATABASE_NAME
from server.app import create_app
from server.auth.visit import SESSION_COOKIE
from server.stream import StreamService
from server.stream.admission import PROTOCOL
from service import keys
from service.keys import KeyRule
from tests.db_fixtures import sqlite_template

__all__ = ["sqlite_template"]
OWN = "http://127.0.0.1:8000"


class Site:
    """A server with keys."""

    def __init__(self, home: Path) -> None:
        self.settings = load_settings(home=home)
        self.database = Database(self.settings.effective_database_url)
        self.service = StreamService.mock()

    def browser(self, rule: KeyRule = KeyRule.ALWAYS, origins: tuple[str, ...] = ()) -> TestClient:
        app = create_app(self.settings, self.database, key_rule=rule, allowed_origins=origins, streams=self.service)
        return TestClient(app, base_url=OWN)

    def key(self, *scopes: str) -> str:
        return keys.create(
            self.database, name="t", owner="ann", scopes=scopes or keys.DEFAULT_SCOPES, expires=None, by="t"
        ).secret


@pytest.fixture
def site(tmp_path: Path, sqlite_template: Path) -> Iterator[Site]:
    home = tmp_path / "home"
    home.mkdir()
    (home / DATABASE_NAME).write_bytes(sqlite_template.read_bytes())
    made = Site(home)
    yield made
    made.database.close()


def _code(client: TestClient, **options: object) -> int | str:
    """The status of the refusal, or the sub-protocol that was agreed on."""
    try:
        with client.websocket_connect("ws://127.0.0.1:8000/v1/stream", **options) as socket:  # type: ignore[arg-type]
            return socket.accepted_subprotocol or ""
    except WebSocketDenialResponse as refused:
        return refused.status_code if refused.json()["error"]["message"] else 0


def test_a_key_comes_in_a_header_or_beside_the_sub_protocol(site: Site) -> None:
    client, key = site.browser(), site.key()
    assert _code(client) == 401
    assert _code(client, headers={"authorization": f"Bearer {key}"}) == ""
    assert _code(client, headers={"x-api-key": key}) == ""
    assert _code(client, subprotocols=[PROTOCOL, key]) == PROTOCOL
    assert _code(client, subprotocols=[PROTOCOL, key[:-1] + "0"]) in (401, PROTOCOL)  # the last digit may be that
    assert _code(client, headers={"authorization": "Bearer vgen_sk_x"}) == 401


def test_a_key_needs_the_scope(site: Site) -> None:
    assert _code(site.browser(), headers={"x-api-key": site.key("videos.read")}) == 403


def test_a_cookie_counts_from_our_own_pages_alone(site: Site) -> None:
    client = site.browser(origins=("https://front.example",))
    session = keys.open_session(site.database, keys.verify(site.database, site.key()))
    cookie = {"cookie": f"{SESSION_COOKIE}={session}"}
    assert _code(client, headers=cookie | {"origin": OWN}) == ""
    assert _code(client, headers=cookie | {"origin": "https://front.example"}) == ""
    assert _code(client, headers=cookie | {"origin": "https://evil.example"}) == 403
    assert _code(client, headers=cookie) == 403
    assert _code(client, headers={"cookie": f"{SESSION_COOKIE}=x", "origin": OWN}) == 401


def test_without_keys_this_machine_s_own_pages_are_served(site: Site) -> None:
    client = site.browser(KeyRule.ONCE_ANY_EXISTS)
    assert _code(client) == ""
    assert _code(client, headers={"origin": OWN}) == ""
    assert _code(client, headers={"origin": "https://evil.example"}) == 403
    assert _code(client, headers={"host": "evil.example"}) == 403


def test_a_server_without_streams_says_so(site: Site) -> None:
    client = TestClient(create_app(site.settings, site.database), base_url=OWN)
    assert _code(client) == 503
