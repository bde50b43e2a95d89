"""A session: its state, the moves between states, and what its client has switched on."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.encoding.live import Mode


class SessionState(StrEnum):
    """Where a session stands. A session moves by ``MOVES`` alone."""

    INITIALIZING = "initializing"
    """The socket is open; ``session_init_v2`` is awaited."""
    QUEUED = "queued"
    """It waits for a GPU."""
    GPU_BINDING = "gpu_binding"
    """A GPU is being bound to it."""
    ACTIVE = "active"
    """Segments are made, or asked for."""
    COMPLETE = "complete"
    """It came to its end."""
    ERROR = "error"
    """Something failed that it could not go on after."""
    TIMEOUT = "timeout"
    """Nothing was asked for, or no GPU was free, for too long."""
    REJECTED = "rejected"
    """It was not let in."""


_S = SessionState
MOVES: dict[SessionState, frozenset[SessionState]] = {
    _S.INITIALIZING: frozenset({_S.QUEUED, _S.GPU_BINDING, _S.REJECTED, _S.ERROR}),
    _S.QUEUED: frozenset({_S.GPU_BINDING, _S.ERROR, _S.TIMEOUT, _S.REJECTED}),
    _S.GPU_BINDING: frozenset({_S.ACTIVE, _S.ERROR, _S.TIMEOUT}),
    _S.ACTIVE: frozenset({_S.ACTIVE, _S.COMPLETE, _S.ERROR, _S.TIMEOUT}),
    **{end: frozenset() for end in (_S.COMPLETE, _S.ERROR, _S.TIMEOUT, _S.REJECTED)},
}
TERMINAL = frozenset(state for state, following in MOVES.items() if not following)


class InvalidSessionTransitionError(RuntimeError):
    """A session was to move where no edge leads: a bug."""


class SessionRejectedError(Exception):
    """A session is not let in; the message says why."""


@dataclass
class Session:
    """One client's session on this server."""

    id: str = field(default_factory=lambda: secrets.token_hex(16))
    state: SessionState = SessionState.INITIALIZING
    created_at: float = field(default_factory=time.monotonic)
    last_activity: float = field(default_factory=time.monotonic)
    owner: str = ""
    """Whose it is: the owner of the key with which its connection was opened."""
    client_id: str | None = None
    preset: str | None = None
    preset_label: str | None = None
    curated_prompts: list[str] = field(default_factory=list)
    segment_idx: int = 0
    """The segment that is made next."""
    enhancement_enabled: bool = False
    auto_extension_enabled: bool = False
    loop_generation_enabled: bool = False
    single_clip_mode: bool = False
    generation_paused: bool = False
    stream_mode: Mode = Mode.AV_FMP4
    gpu_id: int | None = None

    def transition(self, target: SessionState) -> None:
        """Move to a state. Raises InvalidSessionTransitionError: no edge leads there."""
        if target not in MOVES[self.state]:
            raise InvalidSessionTransitionError(f"a session cannot move from {self.state} to {target}")
        self.state = target
        self.last_activity = time.monotonic()

    def end(self, target: SessionState) -> None:
        """Move to a terminal state, or by the nearest edge to an error; what has ended stays as it is."""
        if self.state not in TERMINAL:
            self.transition(target if target in MOVES[self.state] else SessionState.ERROR)

    def touch(self) -> None:
        self.last_activity = time.monotonic()


class SessionRegistry:
    """The sessions of this process, at most so many at once, and so many of one owner: silent connections count too."""

    def __init__(self, max_sessions: int, max_per_owner: int | None = None) -> None:
        self._max_sessions = max_sessions
        self._max_per_owner = max_per_owner
        self._sessions: list[Session] = []

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: Session) -> None:
        """Let a session in. Raises SessionRejectedError: there are as many as may be, or its owner has."""
        if len(self._sessions) >= self._max_sessions:
            raise SessionRejectedError(
                f"this server has {len(self._sessions)} sessions, which is the most it takes; try again later"
            )
        own = sum(each.owner == session.owner for each in self._sessions)
        if self._max_per_owner is not None and own >= self._max_per_owner:
            raise SessionRejectedError(
                f"{session.owner} has {own} connections to this server, and no owner may have more; close one first"
            )
        self._sessions.append(session)

    def active_sessions(self) -> list[Session]:
        return [session for session in self._sessions if session.state not in TERMINAL]

    def remove(self, session: Session) -> None:
        self._sessions = [each for each in self._sessions if each is not session]
