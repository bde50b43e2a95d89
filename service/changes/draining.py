"""Drains a host of a cluster: its GPUs finish their clips and take no more."""

from dataclasses import dataclass

from db.scheduling import worker_presets
from db.session import Database
from pipeline.errors import ConflictError


@dataclass(frozen=True, slots=True)
class Drained:
    """The host's GPU workers, which take no more, and how many steps it is still at."""

    workers: list[str]
    left: int


def drain(database: Database, host: str, *, by: str) -> Drained:
    """Have the host's GPU workers take no more work.

    Raises:
        NotFoundError: no live worker is on that host.
        ConflictError: it has no GPU worker; the others end within seconds of a signal.
    """
    with database.transaction() as session:
        names = worker_presets.drain_host(session, host, f"drained by {by}")
        if not names:
            raise ConflictError(f"host {host!r} has no GPU worker: stop `vgen worker` there, which ends within seconds")
        return Drained(names, worker_presets.work_left(session, host))


def left(database: Database, host: str) -> int:
    """Return how many steps the host is still at."""
    with database.reading() as session:
        return worker_presets.work_left(session, host)
