"""The timer that records alerts, each once; several processes may run it."""

import logging
from pathlib import Path

from db.reading import alerts
from db.reading.alerts import Topic
from db.session import Database
from pipeline.presets import load_library

logger = logging.getLogger(__name__)

POLL_S = 10.0
_POLLS_UNTIL_STUCK = 2
"""A batch is said to be stuck when so many polls in a row say so: a worker that starts anew is away for a moment.
With a worker's 30 s to be taken for gone, that is within a minute."""


class Alerts:
    """Remembers what was reported, so that the events are only read when something changed."""

    def __init__(self, database: Database, presets_dir: Path) -> None:
        self._database = database
        self._presets_dir = presets_dir
        self._reported: dict[tuple[str, Topic], bool] = {}
        self._polls: dict[tuple[str, Topic], int] = {}

    def poll(self) -> None:
        """Report what has changed. Raises ServiceUnavailableError when the database is away."""
        presets = load_library(self._presets_dir).presets
        with self._database.reading() as session:
            current = alerts.check(session, presets)
        keys = {(alert.batch_id, alert.topic) for alert in current}
        self._reported = {key: on for key, on in self._reported.items() if key in keys}
        self._polls = {key: self._polls.get(key, 0) for key in keys}
        for alert in current:
            key = (alert.batch_id, alert.topic)
            self._polls[key] = self._polls[key] + 1 if alert.on else 0
            if alert.on is None or self._reported.get(key) is alert.on:
                continue
            if alert.topic is Topic.STUCK and alert.on and self._polls[key] < _POLLS_UNTIL_STUCK:
                continue
            with self._database.transaction() as session:
                is_new = alerts.record(session, alert)
            self._reported[key] = alert.on
            if is_new:
                level = logging.WARNING if alert.on else logging.INFO
                event = alert.topic.begins if alert.on else alert.topic.ends
                logger.log(level, event, extra={"batch_id": alert.batch_id, **alert.data})
