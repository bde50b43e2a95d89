"""`vgen votes`: what people say of a batch's clips, for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.batches.batch_table import path_of
from cli.context import open_database, settings_of
from cli.options import BatchArgument
from cli.results.clips import seconds
from db.clips import batches
from pipeline.errors import InputError, Problem
from pipeline.files.drafts import draft_of
from pipeline.nearest import did_you_mean
from pipeline.storage import FolderStorage
from pipeline.wiring import make_storage
from service import votes

app = typer.Typer(help="Export the stars, notes and votes that people gave on the pages or over HTTP.")


@app.callback()
def _group() -> None:
    """Keep `export` a command of its own, as long as it is the only one."""


@app.command("export")
def export(
    ctx: typer.Context,
    batch: BatchArgument = "latest",
    form: Annotated[
        str,
        typer.Option(
            "--format", metavar="FORM", help=f"One of {', '.join(votes.EXPORTS)}; docs/pages.md says what is in each."
        ),
    ] = "json",
    out: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write this file instead of standard output.")
    ] = None,
    expires: Annotated[
        str, typer.Option("--expires", help="How long URLs of videos in S3 work: 30m, 12h, 7d; at most 7 days.")
    ] = "7d",
) -> int:
    """Export what people say of a batch's clips: JSON, CSV, or what FiftyOne and Label Studio load."""
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
