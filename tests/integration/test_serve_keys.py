"""`vgen serve` with keys: who is let in, what each may do and see, over every route that there is."""

import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from db.clips import jobs
from db.models import ApiKey, Event
from db.session import Database
from pipeline.settings import Settings
from pipeline.states import JobState
from service import keys
from service.keys import SCOPES
from tests.cli_process import vgen
from tests.serving import Served, serving
from tests.unit.server.routes import PUBLIC, Route, every_route, scopes_of

ROUTES = [route for route in every_route() if route.path not in PUBLIC and route.method != "HEAD"]
"""Each route once: HEAD is answered by the same function as GET, without the body that tells why."""
OWNED = [route for route in ROUTES if route.parameters and "character_id" not in route.parameters]
"""Those of something that belongs to somebody; there are no characters."""
BODIES: dict[str, dict[str, Any]] = {
    "/v1/videos": {"json": {"prompt": "a fox"}},
    "/api/v1/batches": {"json": {"text": "a fox"}},
    "/api/v1/batches/upload": {"files": {"file": ("p.txt", b"a fox")}},
    "/api/v1/batches/{batch_id}/budget": {"json": {"by": "+3h"}},
    "/api/v1/jobs/{job_id}/extend": {"json": {"prompt": "and then"}},
    "/api/v1/queues/pause": {"json": {"queues": ["h200"]}},
    "/api/v1/queues/resume": {"json": {"queues": ["h200"]}},
}
"""What a route needs to get as far as its rows."""


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


@dataclass
class Site:
    """A server with two owners; what ``ada`` made."""

    served: Served
    database: Database
    batch_id: str = ""
    keys: dict[str, str] = field(default_factory=dict)

    def key(self, owner: str, *scopes: str, expires: str | None = None) -> str:
        view = keys.create(
            self.database, name="t", owner=owner, scopes=scopes or list(SCOPES)[:-1], expires=expires, by="t"
        )
        return view.secret

    def call(
        self, route: Route, key: str | None = None, *, body: dict[str, Any] | None = None, **values: str
    ) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        ids = {
            "batch_id": self.batch_id,
            "job_id": f"{self.batch_id}-000000",
            "video_id": f"video_{self.batch_id}-000000",
            "task_id": f"{self.batch_id}-000000",
        }
        path = route.at(**{**dict.fromkeys(route.parameters, "none"), **ids, **values})
        return self.served.client.request(route.method, path, headers=headers, **(body or BODIES.get(route.path, {})))

    def kinds(self, key: str) -> list[str]:
        """The events that requests with a key led to."""
        with self.database.reading() as session:
            rows = session.scalars(select(Event).order_by(Event.id)).all()
        return [event.kind for event in rows if event.data.get("by_key") == key.split("_")[2]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("keys")
    with serving(home) as served:
        database = Database(Settings(home=home).effective_database_url)
        site = Site(served, database)
        site.keys = {"ada": site.key("ada"), "bob": site.key("bob"), "admin": site.key("root", "admin")}
        # Nothing is made meanwhile: what a request changes depends on it alone
        stop = served.client.post(
            "/api/v1/queues/pause", json={"everything": True}, headers={"x-api-key": site.keys["admin"]}
        )
        assert stop.status_code == 200, stop.text
        made = site.call(Route("POST", "/api/v1/batches"), site.keys["ada"])
        site.batch_id = made.json()["batch"]["id"]
        yield site
        database.close()


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, None)
    assert ("www-authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
def test_no_route_answers_without_a_valid_key(site: Site, route: Route) -> None:
    refused(site.call(route), 401, "invalid_api_key")
    refused(site.call(route, f"vgen_sk_abcd1234_{'0' * 64}"), 401, "invalid_api_key")
    refused(site.call(route, site.keys["ada"][:-1] + "x"), 401, "invalid_api_key")
    refused(site.call(route, body={"content": b"{no JSON"}), 401, "invalid_api_key")


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
def test_no_route_answers_a_key_without_its_scope(site: Site, route: Route) -> None:
    other = site.key("ada", next(scope for scope in ("stream", "metrics.read") if scope not in scopes_of(route)))
    refused(site.call(route, other), 403, "insufficient_scope")
    refused(site.call(route, other, body={"content": b"{no JSON"}), 403, "insufficient_scope")


@pytest.mark.parametrize("route", OWNED, ids=name_of)
def test_what_is_anothers_does_not_exist(site: Site, route: Route) -> None:
    every = list(SCOPES)[:-1]
    bob = site.key("bob", *every)
    anothers, nobodys = site.call(route, bob), site.call(route, bob, **dict.fromkeys(route.parameters, "none-000000"))

    if anothers.status_code == 403:  # for admins, who see everything
        assert anothers.json()["error"]["code"] == "insufficient_scope"
        return
    assert anothers.status_code == 404, anothers.text
    assert nobodys.status_code == 404
    assert anothers.json()["error"]["code"] == nobodys.json()["error"]["code"]
    assert site.kinds(bob) == []


@pytest.mark.parametrize("path", ["/v1/videos", "/api/v1/batches"])
def test_lists_hold_what_is_ones_own(site: Site, path: str) -> None:
    def listed(key: str) -> list[str]:
        answer = site.served.client.get(path, headers={"authorization": f"Bearer {key}"}).json()
        return [item["id"] for item in answer.get("data", answer.get("batches"))]

    assert listed(site.keys["bob"]) == []
    assert any(site.batch_id in item for item in listed(site.keys["ada"]))
    assert listed(site.keys["admin"]) == listed(site.keys["ada"])


def test_a_change_with_a_key_leaves_an_event_with_its_id(site: Site) -> None:
    changes = {
        "/v1/videos": ["submitted"],
        "/api/v1/batches": ["submitted"],
        "/api/v1/batches/upload": ["submitted"],
        "/api/v1/batches/{batch_id}/budget": ["deadline_set"],
        "/api/v1/batches/{batch_id}/pause": ["paused"],
        "/api/v1/batches/{batch_id}/resume": ["resumed"],
        "/api/v1/jobs/{job_id}/cancel": ["cancel_requested", "job_cancelled"],
        "/api/v1/jobs/{job_id}/retry": ["retry_requested"],
        "/api/v1/jobs/{job_id}/rerun": ["submitted"],
        "/api/v1/queues/pause": ["queue_paused"],
        "/api/v1/queues/resume": ["queue_resumed"],
    }
    made = site.served.client.post(
        "/api/v1/batches", json={"text": "a boat", "again": True}, headers={"x-api-key": site.keys["ada"]}
    ).json()["batch"]["id"]
    order = {path: number for number, path in enumerate(changes)}
    for route in sorted((route for route in ROUTES if route.path in order), key=lambda route: order[route.path]):
        if route.method == "GET":
            continue
        key = site.key(f"own-{order[route.path]}", "admin")
        answer = site.call(route, key, batch_id=made, job_id=f"{made}-000000")
        assert answer.status_code == 200, (route, answer.text)
        assert site.kinds(key) == changes[route.path], route


def test_what_the_policy_holds_only_an_admin_lets_go(site: Site) -> None:
    job_id = f"{site.batch_id}-000000"
    with site.database.transaction() as session:
        jobs.move(session, job_id, JobState.IN_FLIGHT)
        jobs.move(session, job_id, JobState.HELD)
    admin = site.key("root", "admin")
    path, whole = f"/api/v1/jobs/{job_id}/approve", f"/api/v1/batches/{site.batch_id}/approve"
    post = site.served.client.post

    refused(post(path, headers={"x-api-key": site.keys["ada"]}), 403, "insufficient_scope")
    refused(post(whole, headers={"x-api-key": site.keys["ada"]}), 403, "insufficient_scope")
    assert post(path, headers={"x-api-key": admin}).json()["changed"] == [job_id]
    assert site.kinds(admin) == ["approved"]
    weaker = {"json": {"text": "a fox", "safety_policy": "open"}}
    refused(post("/api/v1/batches", headers={"x-api-key": site.keys["ada"]}, **weaker), 403, "insufficient_scope")
    assert post("/api/v1/batches", headers={"x-api-key": admin}, **weaker).status_code == 200


def test_a_key_that_is_revoked_or_has_ended_is_refused_from_then_on(site: Site) -> None:
    key, brief = site.key("ada"), site.key("ada", expires="+1h")
    listing = Route("GET", "/api/v1/batches")
    assert site.call(listing, key).status_code == site.call(listing, brief).status_code == 200

    keys.revoke(site.database, [key.split("_")[2]], by="t")
    with site.database.transaction() as session:
        session.execute(update(ApiKey).where(ApiKey.id == brief.split("_")[2]).values(expires_at=1))

    assert "revoked" in site.call(listing, key).json()["error"]["message"]
    assert "expired" in site.call(listing, brief).json()["error"]["message"]
    refused(site.call(listing, key), 401, "invalid_api_key")


def test_a_stream_ends_with_its_key(site: Site) -> None:
    key = site.key("ada", "videos.read")
    path = f"/api/v1/batches/{site.batch_id}/events"
    headers = {"authorization": f"Bearer {key}", "accept": "text/event-stream"}
    with site.served.client.stream("GET", path, headers=headers) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "retry: 2000"
        keys.revoke(site.database, [key.split("_")[2]], by="t")
        assert not any(line == "event: done" for line in lines)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Authorization: Bearer {key}"], 200),
        (["X-API-Key: {key}"], 200),
        (["Authorization: Bearer {key}", "Authorization: Bearer {key}"], 200),
        (["Authorization: Bearer {key}", "X-API-Key: {other}"], 401),
        (["Authorization: Basic {key}"], 401),
        (["Authorization: Bearer"], 401),
        (["Cookie: key={key}"], 401),
        (["Authorization: Bearer {key}, Bearer {other}"], 401),
    ],
)
def test_keys_in_raw_headers(site: Site, lines: list[str], status: int) -> None:
    url = site.served.client.base_url
    connection = http.client.HTTPConnection(url.host, url.port or 80, timeout=60)
    connection.putrequest("GET", "/api/v1/batches?limit=1")
    for line in lines:
        name, _, value = line.format(key=site.keys["ada"], other=site.keys["bob"]).partition(":")
        connection.putheader(name, value.strip())
    connection.endheaders()
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    assert answer.status == status, body


def test_a_key_in_the_url_is_not_read(site: Site) -> None:
    answer = site.served.client.get("/api/v1/batches", params={"key": site.keys["ada"]})

    refused(answer, 401, "invalid_api_key")
    assert site.keys["ada"] not in answer.text


def test_no_page_of_another_site_may_read_answers(site: Site) -> None:
    headers = {"origin": "https://example.org", "authorization": f"Bearer {site.keys['ada']}"}

    answer = site.served.client.get("/api/v1/batches", headers=headers)
    preflight = site.served.client.options(
        "/api/v1/batches", headers={"origin": "https://example.org", "access-control-request-method": "POST"}
    )

    assert answer.status_code == 200
    assert not any(name.startswith("access-control") for name in (*answer.headers, *preflight.headers))


def test_a_site_that_is_allowed_may(tmp_path: Path) -> None:
    with serving(tmp_path, "--allow-origin", "https://example.org") as served:
        asked = {"origin": "https://example.org", "access-control-request-method": "POST"}
        assert served.client.options("/api/v1/batches", headers=asked).status_code == 200
        answer = served.client.get("/api/v1/batches", headers={"origin": "https://example.org"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://example.org")


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("keyless")) as served:
        yield served


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "example.org"}, "host_refused"),
        ({"host": "127.0.0.1.example.org:80"}, "host_refused"),
        ({"origin": "https://example.org"}, "origin_refused"),
        ({"origin": "null"}, "origin_refused"),
        ({"origin": "http://localhost:1"}, "origin_refused"),
    ],
)
def test_without_keys_only_this_machines_own_requests_are_answered(
    keyless: Served, headers: dict[str, str], code: str
) -> None:
    # text/plain is what a page may send anywhere without asking first
    answer = keyless.client.post(
        "/v1/videos", content=b'{"prompt": "a fox"}', headers={"content-type": "text/plain", **headers}
    )

    refused(answer, 403, code)
    own = str(keyless.client.base_url).rstrip("/")
    assert keyless.client.get("/api/v1/batches", headers={"origin": own}).json()["batches"] == []


def test_while_there_are_no_keys_what_a_client_gives_for_one_does_not_matter(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        for headers in ({"authorization": "Bearer fake-api-key"}, {"x-api-key": "none"}):
            assert served.client.get("/v1/videos", headers=headers).status_code == 200
        refused(served.client.get("/v1/videos", headers={"x-api-key": "vgen_sk_x"}), 401, "invalid_api_key")
        key = vgen("--home", tmp_path, "keys", "create", "ci").stdout
        assert "vgen_sk_" in key
        refused(served.client.get("/v1/videos", headers={"x-api-key": "none"}), 401, "invalid_api_key")


def test_the_first_key_ends_the_time_without_keys(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        assert served.client.get("/api/v1/batches").status_code == 200
        made = vgen("--home", tmp_path, "keys", "create", "first")
        assert made.returncode == 0, made.stderr
        refused(served.client.get("/api/v1/batches"), 401, "invalid_api_key")
        assert served.client.get("/api/v1/batches", headers={"x-api-key": made.stdout.strip()}).status_code == 200
        # And that it is revoked does not open the server again
        assert vgen("--home", tmp_path, "keys", "revoke", made.stdout.split("_")[2]).returncode == 0
        refused(served.client.get("/api/v1/batches"), 401, "invalid_api_key")


@pytest.mark.parametrize(("host", "own"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
def test_an_address_for_others_needs_a_key_or_a_word(tmp_path: Path, host: str, own: str) -> None:
    if host == "::" and not socket.has_ipv6:
        pytest.skip("there is no IPv6 here")
    done = vgen("--home", tmp_path, "serve", "--host", host, "--port", 0)
    assert done.returncode == 2
    assert "--host: other machines can reach this address, and there is no key" in done.stderr

    def list_(served: Served, **headers: str) -> httpx.Response:
        url = f"http://{own}:{served.client.base_url.port}/api/v1/batches"
        return httpx.get(url, headers={"host": "line.example.org", **headers})

    with serving(tmp_path, "--host", host, "--open") as served:
        assert list_(served).status_code == 200

    key = vgen("--home", tmp_path, "keys", "create", "first").stdout.strip()
    with serving(tmp_path, "--host", host) as served:
        refused(list_(served), 401, "invalid_api_key")
        assert list_(served, **{"x-api-key": key}).status_code == 200


def test_what_is_no_origin_is_said(tmp_path: Path) -> None:
    done = vgen("--home", tmp_path, "serve", "--allow-origin", "*")

    assert done.returncode == 2
    assert "--allow-origin: '*' is not an origin" in done.stderr
