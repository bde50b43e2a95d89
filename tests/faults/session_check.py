"""What must hold of the sessions of a storm when all is well again.

Each has ended or is taken up by a client that comes back, its clip has all its segments, and nothing of it is left
where it was only kept for a while.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import redis

from service import sessions
from tasks.live_chunks import KEPT_S
from tests.faults.fault_cluster import World
from tests.faults.session_clients import Seen, Watched, Watcher

PATIENCE_S = 120.0
PURGED_S = 20.0
"""The reconciler removes a queue that a late message made anew at its next poll."""
ENDS = {
    *("segment_cap", "stop_requested", "session_timeout", "closed_by_operator", "budget_reached", "client_left"),
    "gpu_unavailable",
}
"""Why a session may end in a storm: somebody wanted it, nothing was heard of it, its budget was used up, or it waited
for a GPU for as long as a client may be silent."""


def finish(world: World, seen: Seen) -> None:
    """A client comes back to every session that has not ended, sees all its segments, and ends it."""
    give_up = time.monotonic() + PATIENCE_S
    while (session_id := _oldest_open(world)) is not None and time.monotonic() < give_up:
        watcher, watched = Watcher(f"back to {session_id}", lambda: [server.url for server in world.servers]), Watched()
        watched.id = session_id
        watcher.sit(watched, finish=True)
        seen.problems += watcher.seen.problems
        seen.counted += watcher.seen.counted
        if watched.ended:
            seen.counted["taken up after the storm"] += 1
            seen.problems += _not_as_made(world, watched)


def _oldest_open(world: World) -> str | None:
    open_ = sessions.list_sessions(world.database, limit=10_000)
    return open_[-1].id if open_ else None


def _not_as_made(world: World, watched: Watched) -> list[str]:
    view = sessions.session_view(world.database, watched.id)
    made = [each.segment for each in view.segments if each.generated and each.state not in ("failed", "cancelled")]
    if view.end_reason == "stop_requested" and watched.whole != made:
        return [f"session {watched.id}: its client saw segments {watched.whole} of {made}"]
    return []


def problems(world: World, seen: Seen, since: int) -> list[str]:
    """What is wrong of the sessions that were opened since that time (the database's milliseconds)."""
    give_up = time.monotonic() + PATIENCE_S
    unsettled = f"SELECT id, state, end_reason FROM stream_sessions WHERE settled_at IS NULL AND created_at >= {since}"
    while (left := world.rows(unsettled)) and time.monotonic() < give_up:
        time.sleep(0.2)
    found = [f"session {session_id}: not settled, {state} ({reason})" for session_id, state, reason in left]
    known = {session_id for (session_id,) in world.rows("SELECT id FROM stream_sessions")}
    found += [f"session {each.id}: it is lost" for each in seen.sessions if each.id and each.id not in known]
    ends = world.rows(f"SELECT id, end_reason FROM stream_sessions WHERE created_at >= {since}")
    found += [f"session {session_id}: ended for {why}" for session_id, why in ends if why not in ENDS]
    held = world.rows("SELECT session_id, worker FROM reservations WHERE ended_at IS NULL")
    found += [f"session {session_id}: {worker} is still reserved for it" for session_id, worker in held]
    return found + _badly_joined(world, since) + _left_in_redis(world)


def _badly_joined(world: World, since: int) -> list[str]:
    rows = world.rows(
        f"""SELECT s.id, s.batch_id, s.segments, s.settled_at, s.joined_job_id, j.state
        FROM stream_sessions s LEFT JOIN jobs j ON j.id = s.joined_job_id
        WHERE s.created_at >= {since} AND s.settled_at IS NOT NULL"""
    )
    found = []
    for session_id, batch_id, segments, settled_at, joined, state in rows:
        made = world.rows(
            f"""SELECT id FROM jobs WHERE batch_id = '{batch_id}' AND seq < {segments}
            AND state = 'succeeded' AND finished_at <= {settled_at} ORDER BY seq"""
        )
        wanted = [job_id for (job_id,) in made]
        if bool(wanted) != (joined is not None):
            found.append(f"session {session_id}: {len(wanted)} segments succeeded, and it is joined by {joined}")
        elif joined is not None and state == "succeeded" and (has := _joined(world, joined)) != wanted:
            found.append(f"session {session_id}: its clip joins {has} of {wanted}")
        elif joined is not None and state not in ("succeeded", "cancelled"):
            found.append(f"session {session_id}: its joined clip {joined} is {state}")
    return found


def _joined(world: World, job_id: str) -> list[str]:
    key = world.one(f"SELECT key FROM artifacts WHERE job_id = '{job_id}' AND kind = 'sidecar'")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sidecar.json"
        world.store.download(key, path)
        return [part["job_id"] for part in json.loads(path.read_text("utf-8"))["segments"]]


def _left_in_redis(world: World) -> list[str]:
    """Keys that name a session though all have ended, and will not end by themselves soon."""
    known = [session_id for (session_id,) in world.rows("SELECT id FROM stream_sessions")]
    give_up = time.monotonic() + PURGED_S
    while (left := keys_of(world.redis.port, known)) and time.monotonic() < give_up:
        time.sleep(0.5)
    return [f"Redis still has {key}" for key in left]


def keys_of(port: int, session_ids: Sequence[str]) -> list[str]:
    """The keys of a Redis that name one of the sessions, or a member that does; without live media, which end soon."""
    with redis.Redis(port=port, socket_timeout=5) as client:
        keys = [key for key in client.keys("*") if not 0 < client.ttl(key) <= KEPT_S]
        named = {key: [key] if client.type(key) != b"set" else [key, *client.smembers(key)] for key in keys}
    return sorted(
        key.decode()
        for key, texts in named.items()
        if any(one.encode() in each for one in session_ids for each in texts)
    )


def storm_watchers(world: World, seed: int, count: int) -> Sequence[Watcher]:
    """Clients that do not run yet; none where nothing serves."""
    names = [f"storm {seed} watcher {number}" for number in range(count if world.servers else 0)]
    return [Watcher(name, lambda: [server.url for server in world.servers]) for name in names]
