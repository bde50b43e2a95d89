"""Reports what was stored and the next command, or waits for the batch."""

from cli import output
from cli.batches import next_step, waiting
from db.clips.batches import Submitted
from db.session import Database
from pipeline.settings import Settings
from pipeline.spec import BatchOptions
from service.submission import screening_notices, view_of


def print_stored(
    stored: Submitted,
    summary: str,
    options: BatchOptions,
    *,
    settings: Settings,
    database: Database,
    wait: bool,
    json: bool,
) -> int:
    """Print a new batch and the command that comes next, or wait for it; the exit code."""
    notices = screening_notices(options, settings)
    for text in notices:
        output.notice(text)
    if wait:
        output.notice(f"batch {stored.batch_id}: {summary}")
        return waiting.until_done(database, settings, [stored.batch_id], json=json)
    if json:
        with database.reading() as session:
            output.as_json(view_of(session, stored, settings, notices))
    else:
        output.line(f"batch {stored.batch_id}: {summary}")
        output.line(next_step.line(database, settings, stored.batch_id))
    return 0
