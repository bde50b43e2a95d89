"""`vgen router-serve` reads its file again on SIGHUP: replicas come, removed ones drain, mistakes change nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.cli_process import until
from tests.cluster import VGEN
from tests.router_replica import StartedReplica, started_replica
from tests.routing import Routing, routing, write_config

KEY, OTHER_KEY = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture(scope="module")
def replicas() -> Iterator[tuple[StartedReplica, StartedReplica]]:
    with started_replica("a") as first, started_replica("b") as second:
        yield first, second


@pytest.fixture(scope="module")
def routed(
    replicas: tuple[StartedReplica, StartedReplica], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Routing]:
    folder = tmp_path_factory.mktemp("router")
    (folder / "key").write_text(KEY)
    (folder / "other-key").write_text(OTHER_KEY)
    with routing(folder, [replicas[0].url], admin_key_file="key") as routed:
        routed.until_status("a", "healthy")
        yield routed


def hello(connection: ClientConnection) -> str:
    """The name of the replica at the other end."""
    return str(json.loads(connection.recv(timeout=30))["replica"])


def names(routed: Routing) -> list[str]:
    return [each["name"] for each in routed.client.get("/status").json()["replicas"]]


def removed(routed: Routing) -> list[tuple[str, bool]]:
    return [(each["name"], each["removed"]) for each in routed.client.get("/status").json()["replicas"]]


def config_of(routed: Routing) -> dict[str, Any]:
    config: dict[str, Any] = routed.client.get("/status").json()["config"]
    return config


def test_new_replicas_come_and_removed_ones_drain(
    routed: Routing, replicas: tuple[StartedReplica, StartedReplica]
) -> None:
    first, second = replicas
    with connect(f"{routed.ws}/v1/stream", proxy=None) as running:
        assert hello(running) == "a"

        routed.configure([first.url, second.url], admin_key_file="key")
        routed.until_status("b", "healthy")
        # a has a session: it gets a request only while the one before still counts at b
        assert "b" in {routed.client.get("/echo").json()["replica"] for _ in range(4)}

        routed.configure([second.url], names=["b"], admin_key_file="key")
        until(lambda: ("a", True) in removed(routed))
        for _ in range(3):
            with connect(f"{routed.ws}/v1/stream", proxy=None) as connection:
                assert hello(connection) == "b"
            assert routed.client.get("/echo").json()["replica"] == "b"
        running.send("goes on")
        assert running.recv(timeout=30) == "goes on"
        assert routed.replica("a")["sessions"] == 1
    until(lambda: names(routed) == ["b"])


def test_one_that_comes_back_while_it_drains_is_the_same(
    routed: Routing, replicas: tuple[StartedReplica, StartedReplica]
) -> None:
    first, second = replicas
    routed.configure([first.url], admin_key_file="key")
    routed.until_status("a", "healthy")
    until(lambda: names(routed) == ["a"])
    with connect(f"{routed.ws}/v1/stream", proxy=None) as running:
        assert hello(running) == "a"
        routed.configure([second.url], names=["b"], admin_key_file="key")
        until(lambda: ("a", True) in removed(routed))
        routed.configure([first.url], names=["again"], admin_key_file="key")
        until(lambda: "again" in names(routed))
        assert (routed.replica("again")["sessions"], routed.replica("again")["removed"]) == (1, False)
        assert routed.client.get("/echo").json()["replica"] == "a"


def test_an_order_to_drain_and_the_key_follow_the_file(
    routed: Routing, replicas: tuple[StartedReplica, StartedReplica]
) -> None:
    urls = [each.url for each in replicas]
    routed.configure(urls, admin_key_file="key")
    routed.until_status("b", "healthy")
    drain = "/router/replicas/b/drain"
    assert routed.client.post(drain, headers={"authorization": f"Bearer {KEY}"}).status_code == 200

    before = config_of(routed)["read_at"]
    routed.configure(urls, admin_key_file="other-key")
    until(lambda: config_of(routed)["read_at"] > before)

    assert routed.replica("b")["draining"] is True
    assert routed.client.post(drain, headers={"authorization": f"Bearer {KEY}"}).status_code == 401
    resume = routed.client.post("/router/replicas/b/resume", headers={"authorization": f"Bearer {OTHER_KEY}"})
    assert resume.json()["draining"] is False


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("router:", "router:\n  prot: 1", "router.yaml:2: router.prot: there is no such key: did you mean 'port'?"),
        ("port: 0", "port: 9001", "router.port: 9001 was 0 when the router was started: start it anew to listen"),
        ("admin_key_file: key", "admin_key_file: none", "none: router.admin_key_file: "),
        ("http://127", "gopher://127", "must be http://HOST[:PORT]"),
        ("router:", "router: [", "the configuration cannot be read"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_changes_nothing(
    routed: Routing, replicas: tuple[StartedReplica, StartedReplica], old: str, new: str, told: str
) -> None:
    before = config_of(routed)["read_at"]
    routed.configure([replicas[0].url], admin_key_file="key")
    until(lambda: config_of(routed)["read_at"] > before)
    good, at = routed.file.read_text(), config_of(routed)["read_at"]
    assert old in good

    routed.file.write_text(good.replace(old, new, 1))
    routed.process.send_signal(signal.SIGHUP)
    until(lambda: config_of(routed)["problem"] is not None)

    assert told in config_of(routed)["problem"]
    assert config_of(routed)["read_at"] == at
    assert routed.client.get("/echo").json()["replica"] == "a"
    assert "vgen_router_config_last_reload_successful 0.0" in routed.client.get("/router/metrics").text
    routed.file.write_text(good)
    routed.process.send_signal(signal.SIGHUP)
    until(lambda: config_of(routed)["problem"] is None)
    assert "vgen_router_config_last_reload_successful 1.0" in routed.client.get("/router/metrics").text


def test_a_storm_of_hangups_loses_no_request(routed: Routing, replicas: tuple[StartedReplica, StartedReplica]) -> None:
    urls = [each.url for each in replicas]
    routed.configure(urls, admin_key_file="key")
    routed.until_status("a", "healthy")
    routed.until_status("b", "healthy")
    over = threading.Event()

    def storm() -> None:
        for turn in range(300):
            routed.configure(urls[:: 1 if turn % 2 else -1], names="ab" if turn % 2 else "ba", admin_key_file="key")
        over.set()

    thread = threading.Thread(target=storm)
    thread.start()
    with connect(f"{routed.ws}/v1/stream", proxy=None) as running:
        hello(running)
        while not over.is_set():
            assert routed.client.get("/echo").status_code == 200
            running.send("there?")
            assert running.recv(timeout=30) == "there?"
    thread.join()
    routed.configure([replicas[1].url], names=["last"], admin_key_file="key")
    until(lambda: names(routed) == ["last"])


def test_a_hangup_while_it_drains_does_not_stop_it(tmp_path: Path) -> None:
    with started_replica("a") as replica, routing(tmp_path, [replica.url]) as routed:
        with connect(f"{routed.ws}/v1/stream", proxy=None) as running:
            hello(running)
            routed.process.send_signal(signal.SIGTERM)
            until(lambda: routed.client.get("/status").json()["status"] == "draining")
            routed.process.send_signal(signal.SIGHUP)
            running.send("goes on")
            assert running.recv(timeout=30) == "goes on"
        assert routed.process.wait(30) == 0


def test_a_terminal_that_closes_stops_it_and_a_hangup_by_hand_does_not(
    replicas: tuple[StartedReplica, StartedReplica], tmp_path: Path
) -> None:
    file = tmp_path / "router.yaml"
    write_config(file, [replicas[0].url])
    terminal, end = os.openpty()
    command = ["setsid", "--ctty", *VGEN, "--home", str(tmp_path), "router-serve", "--config", str(file)]
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end) as process:
        os.close(end)
        try:
            _hang_up(process, terminal)
        finally:
            process.kill()


def _hang_up(process: subprocess.Popen[bytes], terminal: int) -> None:
    shown = b""
    while (address := re.search(rb"http://(\S+)", shown)) is None:
        shown += os.read(terminal, 4096)
    status = f"{address[0].decode()}/status"
    before = httpx.get(status).json()["config"]["read_at"]

    process.send_signal(signal.SIGHUP)
    until(lambda: httpx.get(status).json()["config"]["read_at"] > before)
    os.close(terminal)

    assert process.wait(60) == 0
