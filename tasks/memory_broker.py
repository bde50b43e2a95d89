"""The broker of solo mode: kombu's in-memory transport, polled frequently."""

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, memory

URL = "vgen-memory://localhost/"
_LOOK_UP_S = 0.1


class Transport(memory.Transport):  # type: ignore[misc]  # kombu has no types
    """Waits for messages a short time only.

    A Celery worker without an event loop asks for two seconds at a time, and sees that it is to stop after the second
    such wait at the latest: four seconds at the end of each run in which nothing happens.
    """

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Hand over what has come. Raises TimeoutError when nothing does."""
        super().drain_events(connection, timeout=_LOOK_UP_S if timeout is None else min(timeout, _LOOK_UP_S))


TRANSPORT_ALIASES["vgen-memory"] = f"{__name__}:{Transport.__qualname__}"
