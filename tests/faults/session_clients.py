"""Clients that watch sessions over the real WebSocket while faults happen: they ask for segments, stop, go away, come
back with what they lack, and take each other's session over. What a server tells them is judged as it comes."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, get_args

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from server.stream.messages import ErrorCode

SEGMENTS = 3
"""The most that the servers of a storm make of a session."""
IDLE_S = 25
"""A session of a storm in which nothing is asked for ends after so long."""
CONFIG = f"""
streaming: {{ preset: idle, generation_segment_cap: {SEGMENTS}, session_timeout_seconds: {IDLE_S} }}
default_request: {{ sampling: {{ width: 32, height: 32, num_frames: 5, fps: 8 }} }}
"""
_SILENT_S = 12.0
"""Who hears nothing for so long goes, and comes back."""
_CLOSES = {1000, 1003, 1006, 1008, 1009, 1011, 1012, 1013}
"""The close codes of docs/streaming.md; 1006 and 1012: the server, or the connection, is gone."""
_BUG = "the server's log has it"


@dataclass
class Watched:
    """One session, as its client knows it."""

    id: str = ""
    whole: list[int] = field(default_factory=list)
    """The segments that came whole, in the order in which they did."""
    ended: str = ""
    """How it ended; empty while it may go on."""

    @property
    def last(self) -> int:
        return self.whole[-1] if self.whole else -1


@dataclass
class Seen:
    """What the clients of a storm went through."""

    sessions: list[Watched] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    """Comings back, take-overs, ends and errors, by what they were."""
    problems: list[str] = field(default_factory=list)


class _LeftError(Exception):
    """The client goes: what it does next."""


class Watcher(threading.Thread):
    """Watches one session after the other, of whichever server there is.

    Args:
        urls: where servers answer now.
    """

    def __init__(self, name: str, urls: Callable[[], Sequence[str]]) -> None:
        super().__init__(name=name)
        self.seen = Seen()
        self.over = threading.Event()
        self._urls = urls
        self._dice = Random(name)

    def run(self) -> None:
        while not self.over.is_set():
            watched = Watched()
            self.seen.sessions.append(watched)
            while not self.over.is_set() and not watched.ended:
                self.sit(watched)
            self._patience(0.2)

    def sit(self, watched: Watched, *, finish: bool = False) -> None:
        """Watch the session over one connection; with ``finish`` until what it has was seen, and then end it."""
        try:
            with self._connected() as connection:
                sitting = _Sitting(connection, watched, self.seen, self._dice, finish=finish, other=self._connected)
                sitting.watch(self.over)
        except _LeftError as left:
            self.seen.counted[str(left)] += 1
            if str(left) == "left for good":
                watched.ended = str(left)
            self._patience(self._dice.uniform(0, 1))
        except ConnectionClosed as closed:
            self._closed(closed, watched)
        except (OSError, TimeoutError, WebSocketException) as error:
            self.seen.counted[f"no connection: {type(error).__name__}"] += 1
            self._patience(0.5)

    def _connected(self) -> ClientConnection:
        urls = [url for url in self._urls() if url]
        if not urls:
            raise OSError("no server has begun")
        address = self._dice.choice(urls).replace("http://", "ws://") + "/v1/stream"
        return connect(address, compression=None, max_size=None, open_timeout=20, close_timeout=1, proxy=None)

    def _closed(self, closed: ConnectionClosed, watched: Watched) -> None:
        code = closed.rcvd.code if closed.rcvd is not None else 1006
        reason = closed.rcvd.reason if closed.rcvd is not None else ""
        self.seen.counted[f"closed {code} {reason}".strip()] += 1
        if code not in _CLOSES:
            self.seen.problems.append(f"session {watched.id}: closed with {code} {reason}")
        if code == 1000:
            watched.ended = reason or "closed"
        self._patience(0.2)

    def _patience(self, seconds: float) -> None:
        self.over.wait(seconds)


class _Sitting:
    """One connection of a client: what it sends, and what it may be told."""

    def __init__(
        self,
        connection: ClientConnection,
        watched: Watched,
        seen: Seen,
        dice: Random,
        *,
        finish: bool,
        other: Callable[[], ClientConnection],
    ) -> None:
        self._connection, self._watched, self._seen, self._dice = connection, watched, seen, dice
        self._finish, self._other = finish, other
        self._asked = 0
        self._later = False
        """Whether the error that was told last passes: the session is kept, then."""
        self._media = 0
        self._segment: int | None = None

    def watch(self, over: threading.Event) -> None:
        """Raises _LeftError, ConnectionClosed, OSError."""
        init: dict[str, Any] = {"type": "session_init_v2", "stream_mode": self._dice.choice(["av_fmp4", "legacy_jpeg"])}
        if self._watched.id:
            init |= {"session_id": self._watched.id, "after_segment": self._watched.last}
            self._seen.counted["came back"] += 1
        self._send(init)
        silent_since = time.monotonic()
        while self._finish or not over.is_set():
            try:
                received = self._connection.recv(timeout=1.0)
            except TimeoutError:
                if self._finish and time.monotonic() - silent_since > 2.0 and self._segment is None and self._asked:
                    self._send({"type": "stop_session"})
                if time.monotonic() - silent_since > _SILENT_S:
                    self._leave("heard nothing")
                continue
            silent_since = time.monotonic()
            if isinstance(received, bytes):
                self._media += 1
            else:
                self._told(json.loads(received))
            if not self._finish and self._dice.random() < 0.01:
                self._leave("left in the middle")

    def _told(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "gpu_assigned":
                self._is_session(message["session_id"])
            case "ltx2_stream_start":
                self._ask()
            case "ltx2_segment_start":
                self._begun(message["segment_idx"])
            case "media_init":
                self._media = 0 if message["mode"] == "legacy_jpeg" else -1  # the initialisation is no fragment
            case "media_segment_complete":
                if message["chunks"] != self._media:
                    self._wrong(f"segment {self._segment}: {self._media} of {message['chunks']} fragments came")
            case "ltx2_segment_complete":
                self._made(message["segment_idx"])
            case "error":
                self._failed(message)
            case "ltx2_stream_complete":
                self._seen.counted[f"complete: {message['reason']}"] += 1
                self._watched.ended = "" if self._later else message["reason"]

    def _is_session(self, session_id: str) -> None:
        if self._watched.id not in ("", session_id):
            self._wrong(f"another session was assigned: {session_id}")
        self._watched.id = session_id

    def _ask(self) -> None:
        self._asked += 1
        if not self._finish:
            steps = self._dice.randint(2, 30)
            prompt = f"{self._watched.id} {self._dice.randrange(10**9)}"
            self._send({"type": "segment_prompt_source", "prompt": prompt, "num_inference_steps": steps})

    def _begun(self, segment: int) -> None:
        self._segment, self._media = segment, 0
        if segment <= self._watched.last:
            self._wrong(f"segment {segment} began, and {self._watched.whole} had come whole")

    def _made(self, segment: int) -> None:
        if segment != self._segment or segment in self._watched.whole:
            self._wrong(f"segment {segment} came, {self._segment} had begun, and {self._watched.whole} had come")
        self._watched.whole.append(segment)
        self._segment = None
        self._seen.counted["segments seen"] += 1
        if self._finish:
            return
        chance = self._dice.random()
        if chance < 0.1:
            self._send({"type": "stop_session"})
        elif chance < 0.2:
            self._leave("left, to come back")
        elif chance < 0.25:
            self._leave("left for good")
        elif chance < 0.35:
            self._displaced()
        else:
            if chance < 0.5:
                self._ask()
            self._ask()

    def _displaced(self) -> None:
        """A second client comes for the session; this one is told, and the other goes on in its place."""
        with self._other() as second:
            again = {"type": "session_init_v2", "session_id": self._watched.id, "after_segment": self._watched.last}
            second.send(json.dumps(again))
            with contextlib.suppress(TimeoutError):
                while json.loads(_text(second.recv(timeout=5.0))).get("type") != "gpu_assigned":
                    pass
            self._leave("displaced by another")

    def _failed(self, error: dict[str, Any]) -> None:
        code, text, self._later = error["code"], error["message"], error["retryable"]
        self._seen.counted[f"error {code}: {text[:90]}"] += 1
        if code not in get_args(ErrorCode) or not text or _BUG in text or "Traceback" in text:
            self._wrong(f"{code}: {text}")
        if self._watched.id and "does not exist" in text:
            self._wrong(f"it is lost: {text}")
            self._watched.ended = "lost"
        if "has ended" in text:
            self._watched.ended = text
        elif code in ("invalid_message", "worker_failed") and not self._watched.ended:
            self._segment = None
            self._ask()  # another prompt, then

    def _leave(self, why: str) -> None:
        """Go without a word, as a browser whose network is gone. Raises _LeftError."""
        with contextlib.suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)
        raise _LeftError(why)

    def _send(self, message: dict[str, Any]) -> None:
        self._connection.send(json.dumps(message))

    def _wrong(self, what: str) -> None:
        self._seen.problems.append(f"session {self._watched.id}: {what}")


def _text(received: str | bytes) -> str:
    return received if isinstance(received, str) else "{}"


def together(watchers: Sequence[Watcher]) -> Seen:
    """End the clients, which leave their sessions as they are; what all of them saw."""
    for watcher in watchers:
        watcher.over.set()
    for watcher in watchers:
        watcher.join(120)
    every = Seen(problems=[f"{watcher.name} did not end" for watcher in watchers if watcher.is_alive()])
    for watcher in watchers:
        every.sessions += watcher.seen.sessions
        every.counted += watcher.seen.counted
        every.problems += watcher.seen.problems
    return every
