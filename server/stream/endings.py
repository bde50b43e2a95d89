"""How a conversation ends, and what its client is told last."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from pipeline.redaction import redact
from server.stream import messages as m
from server.stream.session import SessionState

NORMAL, UNSUPPORTED, POLICY, INTERNAL, RESTART, TRY_LATER = 1000, 1003, 1008, 1011, 1012, 1013
"""Close codes of RFC 6455 and its registry."""

CLIENT_LEFT = "client_left"
"""The reason of an end in which the client went away."""

KEY_LOST = "the key with which the connection was opened is valid no more"


@dataclass
class Ending(Exception):  # noqa: N818 - it is no error that a session ends
    """What is said last, and with what the socket is closed."""

    state: SessionState
    code: int
    reason: str
    messages: tuple[BaseModel, ...] = ()
    client_left: bool = False
    kept_s: float | None = None
    """How long the session waits for a client that left; None: as long as after a lost connection."""


def error_message(
    code: m.ErrorCode, text: str, *, retryable: bool = False, prompt: str | None = None
) -> m.ErrorMessage:
    """Return the message of an error; ``prompt`` is what the client sent, where the error is about that alone."""
    return m.ErrorMessage(code=code, message=redact(text), retryable=retryable, prompt=prompt)


def rejected(text: str) -> Ending:
    said = error_message("session_rejected", text, retryable=True)
    return Ending(SessionState.REJECTED, TRY_LATER, "session_rejected", (said,))


def refused_init(text: str, reason: str = "invalid_init") -> Ending:
    return Ending(SessionState.REJECTED, UNSUPPORTED, reason, (error_message("invalid_message", text),))


def failed(code: m.ErrorCode, text: str, *more: BaseModel, retryable: bool = False) -> Ending:
    said = (error_message(code, text, retryable=retryable), *more, m.StreamComplete(reason="error"))
    return Ending(SessionState.ERROR, INTERNAL, code, said)


def flooded() -> Ending:
    said = error_message("invalid_message", "too many messages; the session is closed")
    return Ending(SessionState.ERROR, POLICY, "flood", (said, m.StreamComplete(reason="error")))


def taken_over() -> Ending:
    said = error_message("session_rejected", "another client has come for this session")
    return Ending(SessionState.COMPLETE, POLICY, "taken_over", (said,), client_left=True)


def key_lost() -> Ending:
    said = (error_message("session_rejected", KEY_LOST), m.StreamComplete(reason="error"))
    return Ending(SessionState.ERROR, POLICY, "key_revoked", said)


def stopped() -> Ending:
    last = m.StreamComplete(reason="stop_requested")
    return Ending(SessionState.COMPLETE, NORMAL, "stop_requested", (last,))


def cap_reached() -> Ending:
    last = m.StreamComplete(reason="segment_cap")
    return Ending(SessionState.COMPLETE, NORMAL, "segment_cap", (last,))


def ended_before(reason: str) -> Ending:
    """The session had ended, and its client has seen the rest of it."""
    last = m.StreamComplete(reason="segment_cap" if reason == "segment_cap" else "stop_requested")
    return Ending(SessionState.COMPLETE, NORMAL, reason, (last,))


def idle(timeout_s: float) -> Ending:
    said = (m.SessionTimeout(timeout_seconds=round(timeout_s)), m.StreamComplete(reason="stop_requested"))
    return Ending(SessionState.TIMEOUT, NORMAL, "session_timeout", said)


def silent_from_the_start(timeout_s: float) -> Ending:
    said = m.SessionTimeout(timeout_seconds=round(timeout_s))
    return Ending(SessionState.ERROR, NORMAL, "session_timeout", (said,))


def client_gone(code: int = NORMAL) -> Ending:
    """The connection is closed, with that code of the socket's: by the client, or because the server stops."""
    reason = "server_stops" if code == RESTART else CLIENT_LEFT
    return Ending(SessionState.COMPLETE, NORMAL, reason, client_left=True)


def leaves(seconds: float) -> Ending:
    """The client goes away, and says how long its session shall wait for it."""
    return Ending(SessionState.COMPLETE, NORMAL, CLIENT_LEFT, client_left=True, kept_s=seconds)


def no_writer(field: str) -> str:
    return f"{field}: this server has no language model that writes prompts (setting VGEN_ENHANCE_PROVIDERS)"
