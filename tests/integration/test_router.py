"""`vgen router-serve` before replicas that are processes: what is sent arrives, and what breaks is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio import client as asyncio_client
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.cli_process import until, vgen
from tests.router_replica import StartedReplica, started_replica
from tests.routing import Routing, routing
from tests.serving import serving
from tests.tls import make_authority, tls_proxy

KEY = "0123456789abcdef0123456789abcdef"
HUGE = 24 * 1024 * 1024


@pytest.fixture(scope="module")
def replicas() -> Iterator[dict[str, StartedReplica]]:
    with started_replica("a") as first, started_replica("b") as second:
        yield {"a": first, "b": second}


@pytest.fixture(scope="module")
def routed(replicas: dict[str, StartedReplica], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routing]:
    """A router before two replicas that stay alive."""
    folder = tmp_path_factory.mktemp("router")
    (folder / "key").write_text(KEY, "utf-8")
    urls = [each.url for each in replicas.values()]
    with routing(folder, urls, admin_key_file="key", max_message_bytes=2 * HUGE) as routed:
        until(lambda: {each["status"] for each in routed.client.get("/status").json()["replicas"]} == {"healthy"})
        yield routed


def session(routed: Routing, path: str = "/v1/stream", **options: Any) -> connect:
    return connect(f"{routed.ws}{path}", max_size=None, proxy=None, **options)


def hello(connection: ClientConnection) -> dict[str, Any]:
    """What the replica says first: its name, and what the handshake had."""
    told: dict[str, Any] = json.loads(connection.recv(timeout=30))
    return told


def ending(connection: ClientConnection) -> tuple[list[Any], int, str]:
    """What is still received, and the close code and reason."""
    received: list[Any] = []
    with pytest.raises(ConnectionClosed) as closed:
        received.extend(iter(lambda: connection.recv(timeout=60), object()))
    assert closed.value.rcvd is not None, received
    return received, closed.value.rcvd.code, closed.value.rcvd.reason


# WebSockets


def test_messages_of_both_kinds_go_both_ways_in_order(routed: Routing) -> None:
    with session(routed) as connection:
        hello(connection)
        sent = ["text", b"\0\xff", "", b"", "Grüße, 世界", os.urandom(100_000), *(f"{number}" for number in range(50))]
        for message in sent:
            connection.send(message)
        assert [connection.recv(timeout=30) for _ in sent] == sent


def test_a_message_in_fragments_and_a_huge_one_arrive_whole(routed: Routing) -> None:
    body = os.urandom(HUGE)
    with session(routed) as connection:
        hello(connection)
        connection.send([body[:7], body[7 : HUGE // 2], body[HUGE // 2 :]])
        echoed = connection.recv(timeout=60)
        assert isinstance(echoed, bytes)
        assert hashlib.sha256(echoed).digest() == hashlib.sha256(body).digest()


def test_one_that_is_too_long_closes_the_session_with_1009(replicas: dict[str, StartedReplica], tmp_path: Path) -> None:
    replica = replicas["a"]
    with routing(tmp_path, [replica.url], max_message_bytes=1000) as routed:
        with session(routed) as connection:
            hello(connection)
            connection.send("burst 1 1001")
            received, code, reason = ending(connection)
            assert (code, reason) == (1009, "message_too_big")
            assert json.loads(received[0])["code"] == "worker_failed"
        with session(routed) as connection:
            hello(connection)
            connection.send(bytes(1001))
            assert ending(connection)[1] == 1009
        until(lambda: replica.endings() and replica.endings()[-1][0] == 1009)


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, "done"), (1003, "bad init"), (1013, "try_later"), (4321, "é" * 40)]
)
def test_a_replicas_close_reaches_the_client_after_what_it_sent(routed: Routing, code: int, reason: str) -> None:
    with session(routed) as connection:
        hello(connection)
        connection.send("last words")
        connection.send(f"close {code} {reason}")
        assert ending(connection) == (["last words"], code, reason)


@pytest.mark.parametrize(("code", "reason"), [(1000, "bye"), (1001, ""), (3999, "gone"), (1011, "fault")])
def test_a_clients_close_reaches_the_replica(
    routed: Routing, replicas: dict[str, StartedReplica], code: int, reason: str
) -> None:
    with session(routed) as connection:
        replica = replicas[hello(connection)["replica"]]
        connection.close(code, reason)
    until(lambda: [code, reason] in replica.endings())
    until(lambda: routed.client.get("/status").json()["sessions"] == 0)


def test_a_client_that_vanishes_is_gone_for_its_replica(routed: Routing, replicas: dict[str, StartedReplica]) -> None:
    with session(routed) as connection:
        replica = replicas[hello(connection)["replica"]]
        before = len(replica.endings())
        connection.socket.shutdown(socket.SHUT_RDWR)
        until(lambda: len(replica.endings()) > before)
        assert replica.endings()[-1][0] == 1005
    until(lambda: routed.client.get("/status").json()["sessions"] == 0)


def test_the_handshake_goes_through_as_it_came(routed: Routing) -> None:
    headers = {"Authorization": "Bearer vgen_sk_x", "Cookie": "a=1", "X-Own": "7", "X-Forwarded-For": "6.6.6.6"}
    with session(
        routed,
        "/a/path?x=%2F&y=1",
        additional_headers=headers,
        origin="https://example.org",
        subprotocols=["one", "two"],
    ) as connection:
        told = hello(connection)
        assert connection.subprotocol == "two"
        assert connection.response is not None
        assert connection.response.headers["x-replica"] == told["replica"]
    assert (told["raw_path"], told["query"]) == ("/a/path", "x=%2F&y=1")
    assert told["offered"] == ["one", "two"]
    seen = told["headers"]
    assert seen["authorization"] == "Bearer vgen_sk_x"
    assert (seen["cookie"], seen["x-own"], seen["origin"]) == ("a=1", "7", "https://example.org")
    assert seen["host"] == routed.ws.removeprefix("ws://")
    assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == ("127.0.0.1", "http")


@pytest.mark.parametrize("status", [302, 401, 403, 426])
def test_a_refused_handshake_is_refused_alike_and_no_redirect_followed(routed: Routing, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(_once(f"{routed.ws}/refuse/{status}"))
    answer = refused.value.response
    assert (answer.status_code, answer.body, answer.headers["x-why"]) == (status, b"refused", "asked")


class _Direct(asyncio_client.connect):
    def process_redirect(self, exc: Exception) -> Exception:
        return exc


async def _once(url: str) -> None:
    async with _Direct(url, proxy=None):
        pass


def test_a_replica_that_is_busy_is_passed_over_and_the_last_refusal_told(routed: Routing) -> None:
    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(_once(f"{routed.ws}/refuse/503"))
    assert refused.value.response.status_code == 503


def test_a_hundred_sessions_are_shared_out_and_each_keeps_its_order(routed: Routing) -> None:
    async def one(number: int, opened: asyncio.Barrier) -> str:
        async with asyncio_client.connect(f"{routed.ws}/v1/stream", proxy=None, open_timeout=60) as connection:
            told = json.loads(await connection.recv())
            await opened.wait()
            for turn in range(5):
                await connection.send(f"{number} {turn}")
            assert [await connection.recv() for _ in range(5)] == [f"{number} {turn}" for turn in range(5)]
            return str(told["replica"])

    async def all_() -> Counter[str]:
        opened = asyncio.Barrier(100)
        return Counter(await asyncio.gather(*(one(number, opened) for number in range(100))))

    assert asyncio.run(all_()) == {"a": 50, "b": 50}


def test_who_reads_slowly_slows_its_own_sender_and_nobody_else(
    routed: Routing, replicas: dict[str, StartedReplica]
) -> None:
    size = 256 * 1024
    with session(routed, max_queue=1) as slow:
        replica = replicas[hello(slow)["replica"]]
        slow.send(f"burst 400 {size}")
        until(lambda: replica.endings() and isinstance(replica.endings()[0], int))

        def stands() -> bool:
            before = replica.endings()
            with session(routed) as other:  # which is served meanwhile
                hello(other)
                other.send("there?")
                assert other.recv(timeout=30) == "there?"
            return bool(before == replica.endings())

        until(stands)
        assert replica.endings()[0] < 200  # of 100 MiB most still wait with their sender
        numbers = [int.from_bytes(slow.recv(timeout=60)[:4], "big") for _ in range(400)]  # type: ignore[arg-type]
        assert numbers == list(range(400))


def test_a_client_that_takes_nothing_any_more_is_given_up(replicas: dict[str, StartedReplica], tmp_path: Path) -> None:
    with routing(tmp_path, [replicas["a"].url], stall_timeout_seconds=0.5) as routed:
        with session(routed, max_queue=1) as stuck:
            hello(stuck)
            stuck.send(f"burst 400 {256 * 1024}")
            until(lambda: routed.client.get("/status").json()["sessions"] == 0)
            with pytest.raises(ConnectionClosed):
                [stuck.recv(timeout=30) for _ in range(400)]


def test_a_replica_killed_in_a_session_is_told_and_the_client_goes_on_elsewhere(tmp_path: Path) -> None:
    with started_replica("a") as first, started_replica("b") as second:
        with routing(tmp_path, [first.url, second.url], health_check={"interval_seconds": 60}) as routed:
            with session(routed) as connection:
                lost = {"a": first, "b": second}[hello(connection)["replica"]]
                connection.send("before")
                assert connection.recv(timeout=30) == "before"

                lost.kill()

                received, code, reason = ending(connection)
                assert (code, reason) == (1011, "replica_lost")
                error = json.loads(received[-1])
                assert (error["type"], error["code"], error["retryable"]) == ("error", "worker_failed", True)
                assert "continuation_state" in error["message"]

            init = json.dumps({"type": "session_init_v2", "continuation_state": {"kind": "vgen", "payload": {"id": 7}}})
            with session(routed) as again:  # though no check has found the dead one yet
                assert hello(again)["replica"] != lost.name
                again.send(init)
                assert again.recv(timeout=30) == init
            for _ in range(4):
                assert routed.client.get("/echo").json()["replica"] != lost.name


def test_a_session_of_vgen_serve_goes_on_at_another_after_a_kill(tmp_path: Path) -> None:
    first_home, second_home = tmp_path / "a", tmp_path / "b"
    with serving(first_home, "--mock") as first, serving(second_home, "--mock") as second:
        urls = [str(each.client.base_url).rstrip("/") for each in (first, second)]
        with routing(tmp_path, urls, health_check={"interval_seconds": 60}) as routed:

            def made(connection: ClientConnection, last: str) -> list[dict[str, Any]]:
                """The messages up to the first of a type; media are left out."""
                told: list[dict[str, Any]] = []
                while not told or told[-1]["type"] != last:
                    message = connection.recv(timeout=60)
                    told += [json.loads(message)] if isinstance(message, str) else []
                return told

            init: dict[str, Any] = {"type": "session_init_v2", "client_id": "c"}
            with session(routed, subprotocols=["vgen.stream"]) as connection:
                assert connection.subprotocol == "vgen.stream"
                connection.send(json.dumps(init))
                connection.send(json.dumps({"type": "segment_prompt_source", "prompt": "one"}))
                made(connection, "ltx2_segment_complete")
                connection.send(json.dumps({"type": "snapshot_state"}))
                state = made(connection, "continuation_state_snapshot")[-1]["state"]
                running = next(each for each, name in ((first, "a"), (second, "b")) if routed.replica(name)["sessions"])

                running.process.kill()

                received, code, reason = ending(connection)
                assert (code, reason) == (1011, "replica_lost")
                assert json.loads(received[-1])["code"] == "worker_failed"
            with session(routed) as again:
                again.send(json.dumps({**init, "continuation_state": state}))
                again.send(json.dumps({"type": "segment_prompt_source", "prompt": "two"}))
                told = made(again, "ltx2_segment_complete")
                assert "error" not in {each["type"] for each in told}


def test_without_a_healthy_replica_clients_are_told_to_come_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    with routing(tmp_path, [url], health_check={"interval_seconds": 3}) as routed:
        with session(routed, subprotocols=["vgen_sk_" + "a" * 73, "stream"]) as connection:
            received, code, reason = ending(connection)
            assert connection.subprotocol == "stream"
        assert (code, reason) == (1013, "no_healthy_replica")
        error = json.loads(received[0])
        assert (error["type"], error["code"], error["retryable"]) == ("error", "gpu_unavailable", True)
        answer = routed.client.post("/v1/videos", json={"prompt": "a fox"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
        assert answer.json()["error"]["code"] == "no_healthy_replica"
        health = routed.client.get("/router/health")
        assert (health.status_code, "retry-after" in health.headers) == (503, True)


def test_a_replica_behind_tls_is_reached_where_its_certificate_is_known(
    replicas: dict[str, StartedReplica], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_authority(tmp_path / "tls", "127.0.0.1")
    plain = int(replicas["a"].url.rpartition(":")[2])
    with tls_proxy(authority, plain) as proxy:
        url = f"https://127.0.0.1:{proxy.port}"
        with routing(tmp_path, [url]) as routed:
            until(lambda: "CERTIFICATE_VERIFY_FAILED" in (routed.replica("a")["last_error"] or ""))
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        with routing(tmp_path, [url]) as routed:
            routed.until_status("a", "healthy")
            assert routed.client.get("/echo").json()["replica"] == "a"
            with session(routed) as connection:
                told = hello(connection)
                assert (told["replica"], told["headers"]["host"]) == ("a", routed.ws.removeprefix("ws://"))
                connection.send("there?")
                assert connection.recv(timeout=30) == "there?"


# Health


def test_health_that_comes_and_goes_follows_the_thresholds(tmp_path: Path) -> None:
    with started_replica("a") as first, started_replica("b") as second:
        checks = {"interval_seconds": 0.05, "timeout_seconds": 0.5, "failure_threshold": 2, "recovery_threshold": 3}
        with routing(tmp_path, [first.url, second.url], health_check=checks) as routed:
            routed.until_status("a", "healthy")
            routed.until_status("b", "healthy")
            with session(routed) as connection:
                assert hello(connection)["replica"] == "a"
                first.control(status=500)
                routed.until_status("a", "unhealthy")
                assert routed.replica("a")["last_error"] == "answered 500"
                assert routed.replica("a")["consecutive_failures"] >= 2
                for _ in range(4):
                    assert routed.client.get("/echo").json()["replica"] == "b"
                connection.send("its session goes on")
                assert connection.recv(timeout=30) == "its session goes on"
            first.control(status=204)
            routed.until_status("a", "healthy")
            assert routed.replica("a")["last_error"] is None
            first.control(delay=5)
            routed.until_status("a", "unhealthy")
            assert routed.replica("a")["last_error"] == "no answer within 0.5 s"
            assert routed.replica("b")["status"] == "healthy"


def test_a_replica_that_comes_back_is_used_again(tmp_path: Path) -> None:
    with started_replica("a") as first:
        with routing(tmp_path, [first.url], health_check={"interval_seconds": 0.05}) as routed:
            routed.until_status("a", "healthy")
            first.kill()
            routed.until_status("a", "unhealthy")
            with started_replica("a", int(first.url.rpartition(":")[2])):
                routed.until_status("a", "healthy")
                assert routed.client.get("/echo").json()["replica"] == "a"


# HTTP


def test_requests_and_answers_go_through_unchanged(routed: Routing) -> None:
    body = os.urandom(3_000_000)

    answer = routed.client.put("/v1/a%2Fb?q=1&q=%20", content=body, headers={"authorization": "Bearer k", "te": "x"})

    seen = answer.json()
    assert (seen["method"], seen["raw_path"], seen["query"]) == ("PUT", "/v1/a%2Fb", "q=1&q=%20")
    assert (seen["length"], seen["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert seen["headers"]["authorization"] == "Bearer k"
    assert "te" not in seen["headers"]
    assert seen["headers"]["x-forwarded-for"] == "127.0.0.1"
    answer = routed.client.get("/status/418")
    assert (answer.status_code, answer.headers.get_list("set-cookie")) == (418, ["a=1", "b=2"])
    moved = routed.client.get("/moved")
    assert (moved.status_code, moved.headers["location"]) == (302, "http://198.51.100.1/elsewhere")
    head = routed.client.head("/echo")
    assert (head.status_code, head.content) == (200, b"")
    assert routed.client.get("/health").json() == {"status": "ok"}


def test_a_body_of_unknown_length_is_streamed(routed: Routing) -> None:
    parts = [b"one", b"", b"two" * 100_000]

    seen = routed.client.post("/echo", content=iter(parts)).json()

    assert seen["length"] == sum(map(len, parts))
    assert "content-length" not in seen["headers"]


def test_an_answer_comes_in_the_parts_in_which_it_is_sent(routed: Routing) -> None:
    with routed.client.stream("GET", "/parts?count=3&pause=0.05") as answer:
        assert "".join(answer.iter_text()) == "0\n1\n2\n"
        assert answer.headers["transfer-encoding"] == "chunked"


def test_an_answer_that_does_not_wait_for_the_body_arrives(routed: Routing) -> None:
    answer = routed.client.post("/early", content=bytes(100_000))

    assert (answer.status_code, answer.json()) == (413, {"early": True})


def test_a_client_that_leaves_is_gone_for_its_replica(routed: Routing, replicas: dict[str, StartedReplica]) -> None:
    with pytest.raises(httpx.ReadTimeout):
        routed.client.get("/never", timeout=0.3)

    until(lambda: any("left" in each.endings() for each in replicas.values()))
    until(lambda: routed.client.get("/status").json()["requests"] == 0)


@pytest.mark.parametrize("target", ["http://198.51.100.1/x", "*"])
def test_another_hosts_url_is_refused(routed: Routing, target: str) -> None:
    with socket.create_connection(("127.0.0.1", routed.client.base_url.port or 0)) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"invalid_target" in answer


def test_a_replica_that_dies_in_its_answer_leaves_no_whole_one(tmp_path: Path) -> None:
    with started_replica("a") as replica, routing(tmp_path, [replica.url]) as routed:
        with pytest.raises(httpx.RemoteProtocolError):
            routed.client.get("/parts?count=5&pause=0.2&die=1")


def test_a_request_that_was_sent_is_not_sent_again(tmp_path: Path) -> None:
    with started_replica("a") as first, started_replica("b") as second:
        with routing(tmp_path, [first.url, second.url], health_check={"interval_seconds": 60}) as routed:
            until(
                lambda: [each["status"] for each in routed.client.get("/status").json()["replicas"]] == ["healthy"] * 2
            )
            os.kill(first.process.pid, signal.SIGSTOP)  # it takes connections and answers nothing
            answers = []
            with httpx.Client(base_url=routed.client.base_url, timeout=60) as client:
                sending = client.build_request("POST", "/v1/videos", json={"prompt": "a fox"})
                thread = threading.Thread(target=lambda: answers.append(client.send(sending)))
                thread.start()
                until(lambda: routed.replica("a")["requests"] == 1)
                first.kill()
                thread.join(60)
            assert [answer.status_code for answer in answers] == [502]
            assert answers[0].json()["error"]["code"] == "replica_failed"


# Draining


def test_a_drained_replica_gets_nothing_new_until_it_is_put_back(routed: Routing) -> None:
    key = {"authorization": f"Bearer {KEY}"}
    with session(routed) as running:
        name = hello(running)["replica"]
        other = "b" if name == "a" else "a"
        assert routed.client.post(f"/router/replicas/{name}/drain", headers=key).json()["draining"] is True
        try:
            for _ in range(3):
                with session(routed) as connection:
                    assert hello(connection)["replica"] == other
                assert routed.client.get("/echo").json()["replica"] == other
            running.send("goes on")
            assert running.recv(timeout=30) == "goes on"
            assert routed.replica(name)["sessions"] == 1
        finally:
            assert routed.client.post(f"/router/replicas/{name}/resume", headers=key).json()["draining"] is False
    assert {routed.client.get("/echo").json()["replica"] for _ in range(4)} == {"a", "b"}


def test_where_all_healthy_replicas_drain_clients_are_told_that(routed: Routing) -> None:
    key = {"authorization": f"Bearer {KEY}"}
    why = "every healthy replica is draining; try again in a few seconds"
    try:
        for name in ("a", "b"):
            routed.client.post(f"/router/replicas/{name}/drain", headers=key)
        with session(routed) as connection:
            received, code, reason = ending(connection)
        assert (json.loads(received[0])["message"], code, reason) == (why, 1013, "no_healthy_replica")
        for path in ("/echo", "/router/health"):
            answer = routed.client.get(path)
            assert (answer.status_code, answer.json()["error"]["message"]) == (503, why)
    finally:
        for name in ("a", "b"):
            routed.client.post(f"/router/replicas/{name}/resume", headers=key)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("POST", "/router/replicas/a/drain", {}, 401, "invalid_api_key"),
        ("POST", "/router/replicas/a/drain", {"authorization": "Bearer x"}, 401, "invalid_api_key"),
        ("POST", "/router/replicas/a/drain", {"authorization": KEY}, 401, "invalid_api_key"),
        ("GET", "/router/replicas/a/drain", {"authorization": f"Bearer {KEY}"}, 405, "method_not_allowed"),
        ("POST", "/router/replicas/c/drain", {"authorization": f"Bearer {KEY}"}, 404, "replica_not_found"),
        ("GET", "/router/nonesuch", {}, 404, "unknown_url"),
        ("POST", "/status", {}, 405, "method_not_allowed"),
    ],
)
def test_admin_requests_need_the_key(
    routed: Routing, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = routed.client.request(method, path, headers=headers)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert not routed.replica("a")["draining"]


def test_without_a_key_in_the_file_there_are_no_admin_requests(
    replicas: dict[str, StartedReplica], tmp_path: Path
) -> None:
    with routing(tmp_path, [replicas["a"].url]) as routed:
        answer = routed.client.post("/router/replicas/a/drain", headers={"authorization": "Bearer x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "admin_disabled")


def test_a_stopping_router_lets_sessions_end_and_takes_nothing_new(
    replicas: dict[str, StartedReplica], tmp_path: Path
) -> None:
    with routing(tmp_path, [replicas["a"].url]) as routed:
        with session(routed) as running:
            hello(running)
            routed.process.send_signal(signal.SIGTERM)
            until(lambda: routed.client.get("/status").json()["status"] == "draining")
            with session(routed) as late:
                received, code, reason = ending(late)
            assert (json.loads(received[0])["code"], code, reason) == ("gpu_unavailable", 1013, "draining")
            answer = routed.client.get("/echo")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
            assert routed.client.get("/router/health").status_code == 503
            running.send("goes on")
            assert running.recv(timeout=30) == "goes on"
        assert routed.process.wait(30) == 0


def test_sessions_that_outlast_the_drain_are_told(replicas: dict[str, StartedReplica], tmp_path: Path) -> None:
    with routing(tmp_path, [replicas["a"].url], drain_seconds=0.2) as routed:
        with session(routed) as running:
            hello(running)
            routed.process.send_signal(signal.SIGTERM)
            received, code, reason = ending(running)
        assert (json.loads(received[-1])["retryable"], code, reason) == (True, 1012, "router_stops")
        assert routed.process.wait(30) == 0
    until(lambda: replicas["a"].endings()[-1] == [1001, "router_stops"])


# The command


def test_mistakes_in_the_file_end_the_command(tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    file.write_text("router:\n  replicas:\n    - url: http://a:8000/v1\n  prot: 1\n", "utf-8")

    done = vgen("router-serve", "--config", file)

    assert done.returncode == 2
    assert f"vgen: {file}:3: router.replicas[0].url: 'http://a:8000/v1' has a path" in done.stderr
    assert f"vgen: {file}:4: router.prot: there is no such key: did you mean 'port'?" in done.stderr
