"""Requests that are sent again because no answer came: by the client's own key, or as OpenAI's SDKs do it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session
from starlette.datastructures import Headers

from db.clips import request_keys
from db.clips.request_keys import REPEATED_WITHIN_MS, Answered, Repetition
from pipeline.digests import sha256_hex
from server.auth import Caller
from server.database import Line
from server.errors import ApiError
from server.openai.forms import Body

MAX_KEY_CHARS = 255
_HOUR_MS = 3_600_000


class AnsweredError(Exception):
    """Another request has stored meanwhile what this one asks for."""

    def __init__(self, answered: Answered) -> None:
        super().__init__(answered.batch_id)
        self.answered = answered


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request that makes videos, as far as it can be one that came before."""

    line: Line
    repetition: Repetition | None
    """None: the client sends nothing that would tell."""
    since: float

    def earlier(self) -> str | None:
        """Return the batch that the same request made before. Raises ApiError: 422, its key was another request's."""
        if self.repetition is None or not (self.repetition.by_key or self.repetition.repeated):
            return None
        with self.line.database.reading() as session:
            answered = request_keys.answered(session, self.repetition)
        return None if answered is None else self.checked(answered)

    def recorded(self, session: Session, batch_id: str) -> None:
        """Record the answer, in the transaction that stores the batch. Raises AnsweredError."""
        if self.repetition is not None:
            since_ms = int((time.monotonic() - self.since) * 1000)
            answered = request_keys.record(session, self.repetition, batch_id, since_ms=since_ms)
            if answered is not None:
                raise AnsweredError(answered)

    def checked(self, answered: Answered) -> str:
        assert self.repetition is not None
        if answered.fingerprint != self.repetition.fingerprint:
            message = "this Idempotency-Key came before with another request: use another key"
            raise ApiError(422, message, code="idempotency_key_reused", param="Idempotency-Key")
        return answered.batch_id

    def once(self, store: Callable[[], str]) -> str:
        """Return the batch that ``store`` stores and records, or the one that another request has stored meanwhile."""
        try:
            return store()
        except AnsweredError as error:
            return self.checked(error.answered)


def incoming(headers: Headers, body: Body, route: str, caller: Caller, line: Line, since: float) -> Incoming:
    """Raises ApiError: 400, the key cannot be one."""
    key, count = headers.get("idempotency-key"), headers.get("x-stainless-retry-count")
    if key is None and count is None:
        return Incoming(line, None, since)
    fingerprint = body.fingerprint(route)
    if key is None:
        repeated = (count or "").isdecimal() and int((count or "0")[:6]) >= 1
        own = Repetition(caller.owner, f"fields:{fingerprint}", fingerprint, REPEATED_WITHIN_MS, repeated=repeated)
        return Incoming(line, own, since)
    if not key.strip() or len(key) > MAX_KEY_CHARS:
        message = f"the Idempotency-Key has {len(key)} characters: use 1 to {MAX_KEY_CHARS}"
        raise ApiError(400, message, code="invalid_value", param="Idempotency-Key")
    lifetime_ms = int(line.settings.serve.idempotency_h * _HOUR_MS)
    own = Repetition(caller.owner, f"key:{sha256_hex(key)}", fingerprint, lifetime_ms, by_key=True)
    return Incoming(line, own, since)
