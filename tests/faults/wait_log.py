"""What held the steps that waited: the reasons that the line itself gives, asked for again and again in a storm."""

from __future__ import annotations

import time
from collections import Counter, defaultdict

from sqlalchemy import select

from db.models import Job
from pipeline.states import JobState
from service.waiting import reasons_of
from tests.faults.fault_cluster import World

EVERY_S = 2.0


class WaitLog:
    """Samples, by job: when, and why it was not at work."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._samples: dict[str, list[tuple[float, str]]] = defaultdict(list)
        self._away: list[float] = []
        """When the database could not be asked."""
        self._looked = 0.0

    def look(self) -> None:
        """Ask, once every few seconds."""
        if time.monotonic() - self._looked < EVERY_S:
            return
        self._looked = time.monotonic()
        try:
            with self._world.database.reading() as session:
                open_ = select(Job).where(Job.state.in_((JobState.WAITING, JobState.IN_FLIGHT, JobState.HELD)))
                reasons = reasons_of(session, session.scalars(open_).all(), self._world.settings)
        except Exception:  # noqa: BLE001  # the database is away, restarts, or its connections were cut
            self._away.append(time.time())
            return
        for job_id, reason in reasons.items():
            self._samples[job_id].append((time.time(), f"{reason.code}: {reason.text}"))

    def between(self, job_id: str, begin: float, end: float) -> str:
        """Why the job was not at work between two times (seconds since 1970), with about how many seconds each."""
        seen = Counter(why for at, why in self._samples[job_id] if begin <= at <= end)
        seen["the database was away"] = sum(begin <= at <= end for at in self._away)
        return (
            "; ".join(f"{count * EVERY_S:.0f} s {why}" for why, count in seen.most_common(6) if count)
            or "no reason was seen"
        )
