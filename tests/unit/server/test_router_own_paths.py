"""What the router says of itself, and to whom: addresses for the operator, names for everybody, metrics."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from typing import Any

import httpx
import pytest

from server.router.app import Router
from server.router.config import ReplicaEndpoint, RouterConfig
from server.router.registry import Load
from tests.metrics import samples_of

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def router() -> Router:
    replicas = (ReplicaEndpoint("http://10.0.0.1:8000", name="gpu-a"), ReplicaEndpoint("http://10.0.0.2:8000"))
    router = Router(RouterConfig(replicas), admin_key=KEY)
    router.registry.record_success(router.registry.replicas[0], 1.0)
    router.registry.record_failure(router.registry.replicas[1], "ConnectError: 10.0.0.2:8000")
    return router


def get(router: Router, path: str, *, client: str = "127.0.0.1", host: str = "localhost:9000", **headers: str) -> Any:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(router, client=(client, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:9000") as http:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await http.get(path, headers={"host": host, **named})

    return asyncio.run(ask())


OUTSIDERS: list[dict[str, str]] = [
    {"client": "203.0.113.9"},
    {"x_forwarded_for": "203.0.113.9"},
    {"x_forwarded_for": "127.0.0.1, 203.0.113.9"},
    {"forwarded": "for=203.0.113.9"},
    {"host": "rebound.example"},
    {"client": "203.0.113.9", "authorization": "Bearer wrong"},
    {"client": ""},
]


@pytest.mark.parametrize("whence", OUTSIDERS)
@pytest.mark.parametrize("path", ["/status", "/router/status", "/router/replicas", "/router/replicas/sessions"])
def test_outsiders_see_names_and_no_addresses(router: Router, whence: dict[str, str], path: str) -> None:
    router.last_reload = type(router.last_reload)(1.0, "/etc/vgen/router.yaml:3: router.replicas[0].url: 'http://10.0'")

    answer = get(router, path, **whence)

    assert answer.status_code == 200
    assert "10.0" not in answer.text
    assert "gpu-a" in answer.text
    assert "replica-2" in answer.text


@pytest.mark.parametrize(
    "whence",
    [
        *(
            {},
            {"client": "::1", "host": "[::1]:9000"},
            {"client": "::ffff:127.0.0.1"},
            {"x_forwarded_for": "127.0.0.1"},
        ),
        {"client": "203.0.113.9", "host": "router.example", "authorization": f"Bearer {KEY}"},
    ],
)
def test_this_machine_and_who_has_the_key_see_addresses(router: Router, whence: dict[str, str]) -> None:
    first, second = get(router, "/status", **whence).json()["replicas"]

    assert (first["url"], first["name"]) == ("http://10.0.0.1:8000", "gpu-a")
    assert (second["name"], second["last_error"]) == ("replica-2", "ConnectError: 10.0.0.2:8000")


def test_the_monitor_of_dreamverses_page_reads_sessions(router: Router) -> None:
    with router.registry.carrying(router.registry.replicas[0], Load.SESSION):
        shown = get(router, "/router/replicas/sessions", client="203.0.113.9").json()

    assert shown["replicas"][0] == {"url": "gpu-a", "healthy": True, "active_sessions": 1}
    assert shown["replicas"][1]["healthy"] is False


def test_metrics_are_what_prometheus_reads(router: Router) -> None:
    first, second = router.registry.replicas
    router.metrics.request_ended("gpu-a", 200, 0.02)
    router.metrics.request_ended("gpu-a", 200, 100.0)
    router.metrics.request_ended("none", 503, 0.001)
    router.metrics.sessions["gpu-a", "replica_lost"] += 1
    router.metrics.connect_failures[("replica-2",)] += 2
    router.metrics.check_ended(second, False)
    second.draining = True

    with router.registry.carrying(first, Load.SESSION):
        answer = get(router, "/router/metrics", client="203.0.113.9")

    samples = samples_of(answer.text)
    for name, labels, value in [
        ("replica_healthy", {"replica": "gpu-a"}, 1),
        ("replica_healthy", {"replica": "replica-2"}, 0),
        ("replica_draining", {"replica": "replica-2"}, 1),
        ("replica_sessions", {"replica": "gpu-a"}, 1),
        ("requests_total", {"replica": "gpu-a", "code": "200"}, 2),
        ("requests_total", {"replica": "none", "code": "503"}, 1),
        ("request_duration_seconds_bucket", {"replica": "gpu-a", "le": "0.025"}, 1),
        ("request_duration_seconds_bucket", {"replica": "gpu-a", "le": "60.0"}, 1),
        ("request_duration_seconds_bucket", {"replica": "gpu-a", "le": "+Inf"}, 2),
        ("request_duration_seconds_sum", {"replica": "gpu-a"}, 100.02),
        ("sessions_total", {"replica": "gpu-a", "end": "replica_lost"}, 1),
        ("connect_failures_total", {"replica": "replica-2"}, 2),
        ("health_checks_total", {"replica": "replica-2", "outcome": "failed"}, 1),
        ("config_last_reload_successful", {}, 1),
        ("config_last_reload_success_timestamp_seconds", {}, router.last_reload.at),
    ]:
        assert samples[f"vgen_router_{name}", frozenset(labels.items())] == pytest.approx(value), (name, labels)
    assert "10.0.0" not in answer.text
    if (promtool := shutil.which("promtool")) is not None:
        done = subprocess.run(
            [promtool, "check", "metrics"], input=answer.text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_request_that_comes_back_is_refused(router: Router) -> None:
    sent: list[httpx.Response] = []
    identity = router._current.identity.decode()

    for via in (f"1.1 {identity}", f"1.0 other, 1.1 {identity} , 1.1 third"):
        sent += [get(router, path, via=via) for path in ("/echo", "/status", "/router/health")]

    assert {each.status_code for each in sent} == {508}
    assert sent[0].json()["error"]["code"] == "loop_detected"
    assert get(router, "/status", via="1.1 vgen-router-0000").status_code == 200
