"""`--wait`: a cluster's batches are watched until they end; in solo mode this process makes their clips."""

from collections.abc import Sequence

from cli.batches import watch, work
from db.session import Database
from pipeline.settings import Settings


def until_done(database: Database, settings: Settings, batch_ids: Sequence[str], *, json: bool) -> int:
    """Wait for the batches, show them, and return the worst of their exit codes."""
    if settings.solo:
        return work.off(database, settings, batch_ids, json=json)
    return watch.until_finished(database, settings, batch_ids, json=json)
