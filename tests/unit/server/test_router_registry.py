"""Which replica is next, and when one is healthy."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.router.addresses import target_of
from server.router.config import ReplicaEndpoint
from server.router.headers import end_to_end, forwarded
from server.router.health_checks import HealthChecks, ProbeFailedError
from server.router.registry import Load, Replica, ReplicaRegistry, ReplicaStatus


def endpoint(name: str, **fields: Any) -> ReplicaEndpoint:
    return ReplicaEndpoint(f"http://{name}", name=name, **fields)


def registry(*replicas: ReplicaEndpoint, healthy: bool = True) -> ReplicaRegistry:
    made = ReplicaRegistry(replicas or (endpoint("a"), endpoint("b")))
    for replica in made.replicas:
        if healthy:
            made.record_success(replica, 1.0)
    return made


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match="replicas"):
        ReplicaRegistry([])


def test_none_is_selected_before_a_check_has_succeeded() -> None:
    assert registry(healthy=False).select() is None


def test_sessions_go_where_the_fewest_are() -> None:
    made = registry(*(endpoint(name) for name in "abc"))
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        for _ in range(9):
            replica = made.select()
            assert replica is not None
            stack.enter_context(made.carrying(replica, Load.SESSION))
            counts[replica.name] += 1
        assert counts == {"a": 3, "b": 3, "c": 3}
        assert made.running(Load.SESSION) == 9
    assert made.running(Load.SESSION) == 0


def test_a_replica_of_twice_the_weight_gets_twice_the_sessions() -> None:
    made = registry(endpoint("a"), endpoint("b", weight=2))
    with ExitStack() as stack:
        for _ in range(9):
            replica = made.select()
            assert replica is not None
            stack.enter_context(made.carrying(replica, Load.SESSION))
        assert [each.running[Load.SESSION] for each in made.replicas] == [3, 6]


def test_short_requests_take_turns() -> None:
    made = registry()
    names = []
    for _ in range(4):
        replica = made.select(Load.REQUEST)
        assert replica is not None
        with made.carrying(replica, Load.REQUEST):
            names.append(replica.name)
    assert names == ["a", "b", "a", "b"]


def test_the_primary_gets_all_while_it_can() -> None:
    made = registry(endpoint("a"), endpoint("b", primary=True))
    primary = made.replicas[1]
    with made.carrying(primary, Load.SESSION):
        assert made.select() is primary
        assert made.select(tried=[primary]) is made.replicas[0]
        primary.draining = True
        assert made.select() is made.replicas[0]


def test_one_that_took_no_connection_comes_last_and_still_comes() -> None:
    made = registry()
    first, second = made.replicas
    first.suspect = True
    with made.carrying(second, Load.SESSION):
        assert made.select() is second
        assert made.select(tried=[second]) is first
    made.record_success(first, 1.0)
    with made.carrying(second, Load.SESSION):
        assert made.select() is first


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_health_follows_the_thresholds(results: list[bool], failures: int, successes: int) -> None:
    made = ReplicaRegistry([endpoint("a")], failure_threshold=failures, recovery_threshold=successes)
    replica = made.replicas[0]
    expected, streak, before = ReplicaStatus.UNKNOWN, 0, None
    for result in results:
        streak = streak + 1 if result is before else 1
        before = result
        was = replica.health.status
        changed = made.record_success(replica, 1.0) if result else made.record_failure(replica, "down")
        if result and (expected is ReplicaStatus.UNKNOWN or streak >= successes):
            expected = ReplicaStatus.HEALTHY
        if not result and streak >= failures:
            expected = ReplicaStatus.UNHEALTHY
        assert replica.health.status is expected
        assert changed == (was is not expected)
        assert replica.health.consecutive_failures == (0 if result else streak)


def test_a_replica_that_hangs_delays_no_check_of_another() -> None:
    made = ReplicaRegistry([endpoint("slow"), endpoint("quick")])
    asked: Counter[str] = Counter()
    enough = asyncio.Event()

    async def probe(replica: Replica) -> float:
        asked[replica.name] += 1
        if replica.name == "slow":
            await asyncio.Event().wait()
        if asked["quick"] == 5:
            enough.set()
        if asked["quick"] % 2:
            raise ProbeFailedError("every other time")
        return 1.0

    async def check() -> None:
        checks = HealthChecks(made, probe, 0.001, lambda *_: None)
        await checks.start()
        await enough.wait()
        await checks.stop()

    asyncio.run(check())
    assert asked["slow"] == 1
    assert made.replicas[1].health.status is ReplicaStatus.HEALTHY


def test_only_a_change_for_the_worse_is_logged_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    made = ReplicaRegistry([endpoint("a")], failure_threshold=1)
    fails = iter([False, True])

    async def probe(replica: Replica) -> float:
        if next(fails):
            raise ProbeFailedError("answered 500")
        return 1.0

    async def check() -> None:
        checks = HealthChecks(made, probe, 1.0, lambda *_: None)
        await checks.check(made.replicas[0])
        await checks.check(made.replicas[0])

    with caplog.at_level("INFO"):
        asyncio.run(check())
    logged = [
        (record.levelname, record.getMessage()) for record in caplog.records if "replica a" in record.getMessage()
    ]
    assert [level for level, _ in logged] == ["INFO", "WARNING"]
    assert [" is healthy: " in text for _, text in logged] == [True, False]


def test_a_bug_in_a_probe_makes_the_replica_unhealthy_and_ends_nothing() -> None:
    made = registry()

    async def probe(replica: Replica) -> float:
        raise RuntimeError("no such thing")

    async def check() -> None:
        checks = HealthChecks(made, probe, 1.0, lambda *_: None)
        for _ in range(3):
            await checks.check(made.replicas[0])

    asyncio.run(check())
    assert made.replicas[0].health.status is ReplicaStatus.UNHEALTHY
    assert made.replicas[0].health.last_error == "RuntimeError: no such thing"


def test_headers_of_one_connection_stay_on_it() -> None:
    sent = [
        *((b"Connection", b"keep-alive, X-Own"), (b"x-own", b"1"), (b"Keep-Alive", b"5"), (b"TE", b"trailers")),
        *((b"Transfer-Encoding", b"chunked"), (b"Upgrade", b"h2c"), (b"Proxy-Authorization", b"x")),
        *((b"Authorization", b"Bearer k"), (b"Cookie", b"a=1"), (b"Cookie", b"b=2")),
    ]

    assert end_to_end(sent) == [(b"authorization", b"Bearer k"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]


@pytest.mark.parametrize(
    ("client", "trusted", "expected"),
    [
        (
            "203.0.113.9",
            (),
            {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "http", "x-forwarded-host": "site"},
        ),
        (
            "10.1.2.3",
            ("10.0.0.0/8",),
            {"x-forwarded-for": "1.2.3.4, 10.1.2.3", "x-forwarded-proto": "https", "x-forwarded-host": "outer"},
        ),
        (
            "::ffff:10.1.2.3",
            ("10.0.0.0/8",),
            {"x-forwarded-for": "1.2.3.4, ::ffff:10.1.2.3", "x-forwarded-proto": "https", "x-forwarded-host": "outer"},
        ),
    ],
)
def test_only_a_trusted_proxy_may_say_who_the_client_is(
    client: str, trusted: tuple[str, ...], expected: dict[str, str]
) -> None:
    scope = {"client": (client, 1), "scheme": "http"}
    given_headers = [
        *((b"host", b"site"), (b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-proto", b"https")),
        *((b"x-forwarded-host", b"outer"), (b"forwarded", b"for=1.2.3.4"), (b"x-real-ip", b"1.2.3.4")),
    ]
    networks = [ipaddress.ip_network(each) for each in trusted]

    sent = {name.decode(): value.decode() for name, value in forwarded(given_headers, scope, networks)}

    assert sent == {"host": "site", **expected}


@pytest.mark.parametrize(
    ("raw_path", "query", "target"),
    [
        (b"/a%2Fb", b"x=%20", b"/a%2Fb?x=%20"),
        (b"/", b"", b"/"),
        (b"//198.51.100.1/x", b"", b"//198.51.100.1/x"),
        (b"http://198.51.100.1/x", b"", None),
        (b"*", b"", None),
        (b"", b"", None),
    ],
)
def test_a_target_is_a_path_as_the_client_wrote_it(raw_path: bytes, query: bytes, target: bytes | None) -> None:
    assert target_of({"raw_path": raw_path, "path": raw_path.decode(), "query_string": query}) == target
