"""A file some of whose jobs were made before: said, and with --reuse only the others are stored."""

from cli import output
from cli.options import BatchChoices
from db.session import Database
from pipeline.prompts import Submission
from pipeline.settings import Settings
from pipeline.spec import BatchOptions
from service import reuse


def only_new(
    parsed: Submission, options: BatchOptions, choices: BatchChoices, settings: Settings, database: Database
) -> Submission | str:
    """Return what is to be stored, or the id of the newest batch where everything was made before."""
    if choices.again or choices.key is not None:
        return parsed
    with database.reading(one_instant=True) as session:
        made = reuse.made_before(session, parsed, options, choices.owner or settings.owner, asked=choices.reuse)
    if made is None:
        return parsed
    if not choices.reuse:
        output.notice(f"{made.sentence}: they are made again; --reuse makes only what is new")
        return parsed
    output.notice(f"{made.sentence}: {len(made.new.jobs)} are new")
    return made.new if made.new.jobs else made.batch_ids[0]
