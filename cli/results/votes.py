"""`vgen votes`: rates clips, votes between them, and exports both for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.batches.batch_table import path_of
from cli.context import open_database, settings_of
from cli.options import BatchArgument, Json
from cli.results.clips import seconds
from db.clips import batches, lookup
from db.session import Database
from pipeline.errors import InputError, Problem
from pipeline.files.drafts import draft_of
from pipeline.nearest import did_you_mean
from pipeline.storage import FolderStorage
from pipeline.wiring import make_storage
from service import votes

app = typer.Typer(help="Rate clips, vote between two clips, and export ratings and votes.", no_args_is_help=True)
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The id of a job.")]
NEITHER = "neither"


@app.command("rate")
def rate(
    ctx: typer.Context,
    job: JobArgument,
    stars: Annotated[int | None, typer.Option("--stars", help="1 to 5; 0 removes the rating.")] = None,
    note: Annotated[
        str | None, typer.Option("--note", help="A text of at most 4,000 characters; an empty one removes the note.")
    ] = None,
    json: Json = False,
) -> int:
    """Rate a clip with stars, a note, or both; this replaces your earlier rating."""
    settings = settings_of(ctx)
    given = {"stars": stars or None} if stars is not None else {}
    changes = given if note is None else {**given, "note": note}
    with open_database(settings) as database:
        view = votes.change_rating(database, _job_id(database, job), changes, rater=settings.owner)
    if json:
        output.as_json(view)
    else:
        output.facts([("job", view.job_id), ("rater", view.rater), ("stars", view.stars), ("note", view.note)])
    return 0


@app.command("cast")
def cast(
    ctx: typer.Context,
    first: JobArgument,
    second: Annotated[str, typer.Argument(metavar="OTHER", help="The id of another job.")],
    preferred: Annotated[
        str, typer.Option("--preferred", metavar="JOB", help=f"The id of the better clip, or {NEITHER}.")
    ],
    json: Json = False,
) -> int:
    """Vote for the better of two clips; this replaces your earlier vote on the pair."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        ids = {name: _job_id(database, name) for name in (first, second)}
        better = None if preferred == NEITHER else ids.get(preferred, preferred)
        view = votes.cast_vote(database, ids[first], ids[second], better, rater=settings.owner)
    if json:
        output.as_json(view)
    else:
        output.line(f"{view.first} or {view.second}: {view.preferred or NEITHER}")
    return 0


def _job_id(database: Database, name: str) -> str:
    """Return the whole id of a job. Raises NotFoundError, InputError."""
    with database.reading() as session:
        return lookup.job_named(session, name).id


@app.command("export")
def export(
    ctx: typer.Context,
    batch: BatchArgument = "latest",
    form: Annotated[
        str, typer.Option("--format", metavar="FORM", help=f"{', '.join(votes.EXPORTS)}; docs/pages.md describes them.")
    ] = "json",
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of standard output."),
    ] = None,
    expires: Annotated[
        str, typer.Option("--expires", help="Validity of URLs of videos in S3: 30m, 12h, 7d; at most 7 days.")
    ] = "7d",
    json: Json = False,
) -> int:
    """Export a batch's ratings and votes as JSON, CSV, or for FiftyOne or Label Studio."""
    if json and form != "json":
        raise InputError([Problem(f"{form!r} and --json exclude each other", field="--format")])
    if form not in votes.EXPORTS:
        rule = f"{did_you_mean(form, votes.EXPORTS)}use one of {', '.join(votes.EXPORTS)}"
        raise InputError([Problem(f"{form!r} is not a form: {rule}", field="--format")])
    expires_s, settings = seconds(expires), settings_of(ctx)
    storage = make_storage(settings)

    def video_of(job_id: str, key: str) -> str:
        url = storage.url(key, expires_s=expires_s)
        return path_of(url) if isinstance(storage, FolderStorage) else url

    with open_database(settings) as database, database.reading() as session:
        view = votes.votes_of(session, batches.get(session, batch), video_of, owner=None)
    text, _ = votes.exported(view, form)
    if out is None:
        output.whole(text)
    else:
        with draft_of(out) as draft:
            draft.write_text(text, "utf-8", newline="")
        ratings = sum(len(clip.ratings) for clip in view.clips)
        output.notice(f"{ratings} ratings and {len(view.votes)} votes of batch {view.batch_id} are in {out.absolute()}")
    return 0
