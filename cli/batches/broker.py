"""Checks whether the broker's address accepts connections. Submitting needs no broker, so the result is only a notice.

It says nothing of TLS and passwords, and loads no Celery; `vgen doctor` connects as a worker does.
"""

import socket

from pipeline.settings import Settings
from pipeline.settings.broker_url import parse_broker_url

_TIMEOUT_S = 2.0


def problem(settings: Settings) -> str | None:
    """Why the broker cannot be reached; None when it can, and in solo mode. Never shows its password."""
    if settings.broker_url is None:
        return None
    text = None
    for host, port in parse_broker_url(settings.broker_url).addresses:
        try:
            socket.create_connection((host, port), timeout=_TIMEOUT_S).close()
        except OSError as error:
            text = f"broker {host}:{port} cannot be reached: {error.strerror or error}"
        else:
            return None
    return text
