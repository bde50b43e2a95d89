"""Measures the latency that the router adds: ``python -m bench.router [--rounds 2000] [--mebibytes 256]``.

A server that echoes, and the router before it, each a process; the client is this one. Round trips of a small text and
of 64 KiB, one after the other, in turns with and without the router; then long runs of 64 KiB messages from the server,
as fragments of a video come. Ratios are what can be compared: machines differ, and so do their hours.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.router_replica import started_replica
from tests.routing import routing

KIB = 1024
TURNS = 8
"""The rounds are measured in so many parts, by turns, so that a slow moment of the machine hits both alike."""


def round_trips(connection: ClientConnection, message: str | bytes, rounds: int) -> list[float]:
    """Seconds of each round trip."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        connection.send(message)
        connection.recv()
        times.append(time.perf_counter() - begun)
    return times


def burst(connection: ClientConnection, mebibytes: int) -> float:
    """Seconds until so many MiB, sent in messages of 64 KiB, have come."""
    count = mebibytes * 16
    begun = time.perf_counter()
    connection.send(f"burst {count} {64 * KIB}")
    for _ in range(count):
        connection.recv()
    return time.perf_counter() - begun


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def shown(name: str, direct: list[float], routed: list[float]) -> None:
    ratio = statistics.median(routed) / statistics.median(direct)
    parts = []
    for times in (direct, routed):
        ordered = sorted(times)
        parts.append(
            f"p50 {statistics.median(times) * 1e3:.2f} ms, p99 {ordered[int(len(ordered) * 0.99)] * 1e3:.2f} ms"
        )
    print(f"{name:28} direct: {parts[0]}; by the router: {parts[1]}; p50 {ratio:.2f} ×")


def sockets(url: str, ws: str, router_pid: int, rounds: int, mebibytes: int) -> None:
    direct_url = url.replace("http://", "ws://")
    plain: Any = {"proxy": None, "compression": None}
    with connect(f"{direct_url}/v1/stream", **plain) as direct, connect(f"{ws}/v1/stream", **plain) as routed:
        for connection in (direct, routed):
            connection.recv()
            round_trips(connection, "warm", 50)
        for name, message in (("round trip of 20 characters", "x" * 20), ("round trip of 64 KiB", bytes(64 * KIB))):
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(TURNS):
                times[0].extend(round_trips(direct, message, rounds // TURNS))
                times[1].extend(round_trips(routed, message, rounds // TURNS))
            shown(name, *times)
        rates: tuple[list[float], list[float]] = ([], [])
        before = cpu_seconds(router_pid)
        for _ in range(TURNS):
            rates[0].append(burst(direct, mebibytes // TURNS))
            rates[1].append(burst(routed, mebibytes // TURNS))
        used = cpu_seconds(router_pid) - before
        ratio = statistics.median(rates[1]) / statistics.median(rates[0])
        each = [mebibytes // TURNS / statistics.median(times) for times in rates]
        print(
            f"{'messages of 64 KiB':28} direct: {each[0]:.0f} MiB/s; by the router: {each[1]:.0f} MiB/s; {ratio:.2f} × "
            f"the time; CPU of the router {used / (mebibytes // TURNS * TURNS) * 1e3:.2f} ms a MiB"
        )


def requests(url: str, routed_url: str, router_pid: int, rounds: int) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    before = cpu_seconds(router_pid)
    with httpx.Client(base_url=url) as direct, httpx.Client(base_url=routed_url) as routed:
        for _ in range(TURNS):
            for client, own in zip((direct, routed), times, strict=True):
                for _ in range(rounds // TURNS // 4):
                    begun = time.perf_counter()
                    client.get("/echo").raise_for_status()
                    own.append(time.perf_counter() - begun)
    used = cpu_seconds(router_pid) - before
    shown("GET of a small answer", *times)
    print(f"{'':28} CPU of the router {used / len(times[1]) * 1e3:.2f} ms a request")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--mebibytes", type=int, default=256)
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        started_replica("a") as replica,
        routing(Path(folder), [replica.url]) as routed,
    ):
        routed.until_status("a", "healthy")
        sockets(replica.url, routed.ws, routed.process.pid, chosen.rounds, chosen.mebibytes)
        requests(replica.url, str(routed.client.base_url), routed.process.pid, chosen.rounds)


if __name__ == "__main__":
    main()
