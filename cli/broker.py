"""Whether the broker answers at all: submitting needs none, so this only makes a notice."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pipeline.settings import Settings

_TIMEOUT_S = 2.0
_PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671, "pyamqp": 5672}


def problem(settings: Settings) -> str | None:
    """Why the broker cannot be reached; None when it can, and in solo mode. Never shows its password."""
    if settings.broker_url is None:
        return None
    parts = urlsplit(settings.broker_url)
    if parts.scheme not in _PORTS:
        return None  # another transport: celery will tell
    host, port = parts.hostname or "localhost", parts.port or _PORTS[parts.scheme]
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT_S).close()
    except OSError as error:
        return f"broker {parts.scheme}://{host}:{port} cannot be reached: {error.strerror or error}"
    return None
