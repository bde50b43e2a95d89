"""Carries live media from a worker to servers on other hosts, in a capped Redis stream per session.

An entry's id is (segment, fragment), so Redis itself refuses what comes again, and what an attempt that was fenced
sends late. Frames are equal within one numerics fingerprint, and so are the chunks made of them: an attempt that
takes over goes on where the other one was. Another type of GPU has a stream of its own. Nothing is lost with Redis:
what is missing here, servers take from the published clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from pipeline.digests import sha256_hex
from pipeline.settings import Settings

KEPT_ENTRIES = 2048
"""The stream's cap: some eight minutes of fragments."""
KEPT_S = 600
"""Seconds after its last entry that a stream is kept."""
INIT, END = 1, 2**40
"""The numbers of a segment's first and last entry; its fragments count from ``INIT`` + 1."""
_TIMEOUT_S = 5.0
_RETRY_S = 0.25
_REFUSED = "equal or smaller"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a session's stream."""

    segment: int
    number: int
    fields: Mapping[str, bytes]


class LiveChunks:
    """The streams of sessions. Whatever is raised is a ``redis.RedisError``."""

    def __init__(self, url: str, *, patience_s: float = 0) -> None:
        self._redis: Any = redis.Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_S * 2,
            socket_connect_timeout=_TIMEOUT_S,
            health_check_interval=30,
            retry=Retry(ConstantBackoff(_RETRY_S), round(patience_s / _RETRY_S)),
        )

    @classmethod
    def of(cls, settings: Settings, *, patience_s: float = 0) -> LiveChunks | None:
        """Return the streams that the settings name; None: none.

        Args:
            patience_s: how long it is tried again to reach a Redis that is away, in seconds.
        """
        url = settings.stream.chunks_url
        return None if url is None else cls(url.get_secret_value(), patience_s=patience_s)

    def append(self, stream: str, segment: int, number: int, fields: Mapping[str, bytes | str | int]) -> bool:
        """Add an entry; False where the stream has it, or a later one."""
        try:
            self._redis.xadd(
                _key(stream), dict(fields), id=f"{segment + 1}-{number}", maxlen=KEPT_ENTRIES, approximate=True
            )
        except redis.ResponseError as error:
            if _REFUSED in str(error):
                return False
            raise
        self._redis.expire(_key(stream), KEPT_S)
        return True

    def read(self, stream: str, segment: int, number: int, *, wait_s: float) -> list[Entry]:
        """Return the entries after that one; wait for one so long."""
        found = self._redis.xread(
            {_key(stream): f"{segment + 1}-{number}"}, count=64, block=max(1, round(wait_s * 1000))
        )
        return [_entry(each) for _, entries in found or () for each in entries]

    def close(self) -> None:
        self._redis.close()


def stream_of(session: str, gpu_type: str | None) -> str:
    """Return the name of a session's stream on that type of GPU."""
    return f"{session}:{gpu_type or '-'}"


def stream_id(stream: str, segment: int) -> str:
    """Return the id under which a client is told of a segment's media."""
    return sha256_hex(f"{stream}:{segment}")[:32]


def _key(name: str) -> str:
    return f"vgen:live:{name}"


def _entry(raw: Any) -> Entry:
    entry_id, fields = raw
    segment, number = (int(part) for part in entry_id.decode().split("-"))
    return Entry(segment - 1, number, {name.decode(): value for name, value in fields.items()})
