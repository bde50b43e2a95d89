"""A Celery consumer that sends its task events in batches."""

from typing import Any

from celery.worker import consumer

EVENTS_S = 0.5
"""Flower and `celery events` hear of a task so much later at most."""


class Consumer(consumer.Consumer):  # type: ignore[misc]  # Celery has no types
    """Sends what happened to tasks twice a second, not after each.

    Three round trips to the broker for each task were two fifths of what a worker's parent process computed
    (bench/README.md).
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._flush_is_due = False

    def on_send_event_buffered(self) -> None:
        """An event waits to be sent."""
        if self.hub and not self._flush_is_due:
            self._flush_is_due = True
            self.hub.call_later(EVENTS_S, self._flush_soon)

    def _flush_soon(self) -> None:
        self._flush_is_due = False
        self._flush_events()
