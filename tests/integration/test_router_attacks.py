"""`vgen router-serve` and clients or replicas that are hostile, slow, old or wrong: each is told, and holds nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.cli_process import until
from tests.integration.test_router import ending, hello
from tests.router_replica import StartedReplica, started_replica
from tests.routing import Routing, routing

STALL_S = 1.0


@pytest.fixture(scope="module")
def replicas() -> Iterator[dict[str, StartedReplica]]:
    with started_replica("a") as first, started_replica("b") as second:
        yield {"a": first, "b": second}


@pytest.fixture(scope="module")
def routed(replicas: dict[str, StartedReplica], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routing]:
    urls = [each.url for each in replicas.values()]
    waits = {"stall_timeout_seconds": STALL_S, "connect_timeout_seconds": STALL_S}
    with routing(tmp_path_factory.mktemp("router"), urls, **waits) as routed:
        routed.until_status("a", "healthy")
        routed.until_status("b", "healthy")
        yield routed


def opened(routed: Routing) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", routed.client.base_url.port or 0))
    connection.settimeout(60)
    return connection


def rest_of(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def spoken(routed: Routing, text: bytes) -> bytes:
    """The answer to these bytes."""
    with opened(routed) as connection:
        connection.sendall(text)
        return rest_of(connection)


def seen(answer: bytes) -> dict[str, Any]:
    """What the replica saw of a request that it echoed."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")), head
    shown: dict[str, Any] = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    return shown


def nothing_runs(routed: Routing) -> bool:
    status = routed.client.get("/status").json()
    return (status["sessions"], status["requests"]) == (0, 0)


# HTTP


def test_a_client_of_http_1_0_needs_no_host_header(routed: Routing, replicas: dict[str, StartedReplica]) -> None:
    shown = seen(spoken(routed, b"GET /echo HTTP/1.0\r\n\r\n"))

    assert shown["headers"]["host"] in {each.url.partition("://")[2] for each in replicas.values()}


def test_an_answer_that_breaks_off_is_no_whole_one_for_http_1_0(tmp_path: Path) -> None:
    with started_replica("a") as replica, routing(tmp_path, [replica.url]) as routed:
        with pytest.raises(ConnectionResetError):
            spoken(routed, b"GET /parts?count=5&pause=0.2&die=1 HTTP/1.0\r\n\r\n")


def test_a_body_of_two_lengths_reaches_the_replica_with_one(routed: Routing) -> None:
    request = b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n"
    answer = spoken(routed, request + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")

    if not answer.startswith(b"HTTP/1.1 400"):  # to refuse it is as good
        shown = seen(answer)
        assert shown["length"] == 3
        assert "content-length" not in shown["headers"]


def test_connection_drops_no_header_that_a_request_needs(routed: Routing) -> None:
    request = b"POST /echo HTTP/1.1\r\nHost: name.example\r\nContent-Length: 3\r\nX-Own: 1\r\nVia: 1.1 before\r\n"
    answer = spoken(routed, request + b"Connection: close, host, content-length, via, x-own\r\n\r\nabc")

    shown = seen(answer)
    assert (shown["length"], shown["headers"]["host"]) == (3, "name.example")
    assert "x-own" not in shown["headers"]
    assert shown["headers"]["via"].startswith("1.1 before, 1.1 vgen-router-")


def test_a_client_that_waits_for_100_continue_gets_it(routed: Routing) -> None:
    with opened(routed) as connection:
        head = (
            b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        connection.sendall(head)
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        assert seen(rest_of(connection))["length"] == 3


def test_a_range_is_the_replicas_to_answer(routed: Routing) -> None:
    answer = routed.client.get("/ranged", headers={"range": "bytes=10-19"})

    assert (answer.status_code, answer.headers["content-range"], len(answer.content)) == (206, "bytes 10-19/*", 10)


def test_header_values_beyond_ascii_arrive_as_they_were_sent(routed: Routing) -> None:
    for value in ("Grüße, 世界".encode(), b"\xe9\xff"):
        shown = seen(
            spoken(routed, b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Own: " + value + b"\r\n\r\n")
        )
        assert shown["headers"]["x-own"].encode("latin-1") == value
        with connect(f"{routed.ws}/v1/stream", proxy=None, additional_headers={"X-Own": value.decode("latin-1")}) as it:
            assert hello(it)["headers"]["x-own"].encode("latin-1") == value


@pytest.mark.parametrize("body", [b"Content-Length: 10\r\n\r\n1", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"])
def test_a_body_that_stops_coming_is_refused(routed: Routing, body: bytes) -> None:
    answer = spoken(routed, b"POST /echo HTTP/1.1\r\nHost: a\r\n" + body)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answer
    until(lambda: nothing_runs(routed))


def test_a_client_that_takes_nothing_of_its_answer_is_cut(routed: Routing) -> None:
    with opened(routed) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: not nothing_runs(routed))
        until(lambda: nothing_runs(routed))
        try:
            received = len(rest_of(connection))
        except ConnectionResetError:
            received = 0
        assert received < 64 * 1024 * 1024


def test_a_client_that_closes_its_half_holds_nothing(routed: Routing) -> None:
    with opened(routed) as connection:
        connection.sendall(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: not nothing_runs(routed))
        connection.shutdown(socket.SHUT_WR)
        until(lambda: nothing_runs(routed))


def test_hundreds_of_idle_connections_keep_nobody_waiting(routed: Routing) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(opened(routed)) for _ in range(300)]
        kept = [stack.enter_context(opened(routed)) for _ in range(100)]
        for connection in kept:
            connection.sendall(b"HEAD /router/health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert all(connection.recv(4096).startswith(b"HTTP/1.1 200") for connection in kept)
        assert routed.client.get("/echo").status_code == 200
        with connect(f"{routed.ws}/v1/stream", proxy=None) as session:
            hello(session)
        assert len(silent) == 300
    until(lambda: nothing_runs(routed))


def test_events_of_a_server_come_as_they_are_sent(routed: Routing) -> None:
    with routed.client.stream("GET", "/parts?count=3&pause=0.2") as answer:
        arrived = [(time.monotonic(), part) for part in answer.iter_text()]

    assert len(arrived) == 3
    assert arrived[-1][0] > arrived[0][0]


# WebSockets


def test_a_handshake_that_hangs_is_passed_over_and_told(routed: Routing) -> None:
    with connect(f"{routed.ws}/hang", proxy=None, open_timeout=60) as session:
        _, code, reason = ending(session)

    assert (code, reason) == (1013, "no_healthy_replica")
    until(lambda: all(each["status"] == "healthy" for each in routed.client.get("/status").json()["replicas"]))


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x82\0\0\0\0\xff\xff", 1007),  # text that is no UTF-8
        (b"\x81\x02hi", 1002),  # not masked
        (b"\x89\xfe\0\x80\0\0\0\0" + b"x" * 128, 1002),  # a ping that is too long
        (b"\xf1\x80\0\0\0\0", 1002),  # reserved bits
        (b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1009),  # eight exabytes
    ],
)
def test_frames_that_break_the_protocol_end_their_session_alone(
    routed: Routing, replicas: dict[str, StartedReplica], frame: bytes, code: int
) -> None:
    with connect(f"{routed.ws}/v1/stream", proxy=None) as other:
        hello(other)
        with connect(f"{routed.ws}/v1/stream", proxy=None) as session:
            replica = replicas[hello(session)["replica"]]
            before = len(replica.endings())
            session.socket.sendall(frame)
            with pytest.raises(ConnectionClosed) as closed:
                session.recv(timeout=30)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == code
        until(lambda: len(replica.endings()) > before)
        other.send("there?")
        assert other.recv(timeout=30) == "there?"
    until(lambda: nothing_runs(routed))


@pytest.mark.parametrize("host", ["a/b", "u:p@a", "a?x", "a b", "", "a#", "[::1"])
def test_a_host_that_is_none_is_refused_in_a_handshake(routed: Routing, host: str) -> None:
    request = f"GET /v1/stream HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    with opened(routed) as connection:
        connection.sendall(
            f"{request}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_floods_a_replica_which_reads_nothing_waits(routed: Routing) -> None:
    """Nothing piles up in the router: what it cannot hand on, it does not read."""
    part = bytes(1024 * 1024)

    async def flood() -> int:
        from websockets.asyncio.client import connect as connect_async  # noqa: PLC0415 - this test alone

        sent = 0
        async with connect_async(f"{routed.ws}/v1/stream", proxy=None, close_timeout=0.1) as session:
            await session.recv()
            await session.send("sleep 5")
            try:
                async with asyncio.timeout(2):
                    while True:
                        await session.send(part)
                        sent += 1
            except TimeoutError:
                session.transport.abort()
        return sent

    assert asyncio.run(flood()) < 100
    until(lambda: nothing_runs(routed))


# Addresses


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_replica_that_is_the_router_itself_is_no_replica(replicas: dict[str, StartedReplica], tmp_path: Path) -> None:
    port = free_port()
    urls = [f"http://127.0.0.1:{port}", replicas["a"].url]
    with routing(tmp_path, urls, port=port, names=["self", "a"]) as routed:
        routed.until_status("a", "healthy")
        routed.until_status("self", "unhealthy")
        assert "leads back to this router" in routed.replica("self")["last_error"]
        for _ in range(4):
            assert routed.client.get("/echo").json()["replica"] == "a"
            with connect(f"{routed.ws}/v1/stream", proxy=None) as session:
                assert hello(session)["replica"] == "a"


def test_two_routers_before_each_other_serve_what_a_replica_can(
    replicas: dict[str, StartedReplica], tmp_path: Path
) -> None:
    ports = free_port(), free_port()
    folders = tmp_path / "first", tmp_path / "second"
    with ExitStack() as stack:
        both = []
        for place, folder in enumerate(folders):
            folder.mkdir()
            urls = [replicas["a"].url, f"http://127.0.0.1:{ports[1 - place]}"]
            both.append(stack.enter_context(routing(folder, urls, port=ports[place], names=["a", "other"])))
        for routed in both:
            routed.until_status("a", "healthy")
            for _ in range(6):
                assert routed.client.get("/echo").json()["replica"] == "a"
                with connect(f"{routed.ws}/v1/stream", proxy=None) as session:
                    assert hello(session)["replica"] == "a"
                assert routed.client.post("/echo", json={}).status_code in (200, 503)  # a body cannot be sent twice


def test_a_router_on_ipv6_reaches_replicas_on_ipv6(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with started_replica("a", host="::1") as replica, routing(tmp_path, [replica.url], host="::1") as routed:
        routed.until_status("a", "healthy")
        shown = routed.client.get("/echo").json()
        assert shown["headers"]["x-forwarded-for"] == "::1"
        assert routed.replica("a")["url"] == replica.url
        with connect(f"{routed.ws}/v1/stream", proxy=None) as session:
            assert hello(session)["headers"]["host"] == routed.ws.removeprefix("ws://")


def test_a_second_signal_ends_it_at_once(replicas: dict[str, StartedReplica], tmp_path: Path) -> None:
    with routing(tmp_path, [replicas["a"].url]) as routed:
        with connect(f"{routed.ws}/v1/stream", proxy=None) as session:
            hello(session)
            routed.process.send_signal(signal.SIGTERM)
            until(lambda: routed.client.get("/status").json()["status"] == "draining")
            routed.process.send_signal(signal.SIGTERM)
            assert routed.process.wait(30) == 130
            with pytest.raises(ConnectionClosed):
                session.recv(timeout=30)


def test_what_ended_how_is_counted(routed: Routing) -> None:
    text = routed.client.get("/router/metrics").text

    for line in ('sessions_total{end="refused"', 'sessions_total{end="no_healthy_replica"', 'code="408"', 'code="499"'):
        assert line in text
    with pytest.raises(InvalidStatus), connect(f"{routed.ws}/refuse/401", proxy=None):
        pass
    assert httpx.get(f"{routed.client.base_url}/router/metrics").status_code == 200
