"""`vgen rerun`: makes clips again with the same specification."""

from pathlib import Path
from typing import Annotated

import typer

from cli import completion, output
from cli.batches.stored import print_stored
from cli.context import open_database, settings_of
from cli.jobs import imports
from cli.options import Json, Wait, checked_owner
from db.session import Database
from pipeline.prompts.stored_inputs import StoredInputs
from pipeline.settings import Settings
from pipeline.spec import BatchOptions, JobSpec
from service.rerun import as_made, store_again


def rerun(
    ctx: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Job ids, custom_ids, or sidecar files (.json) of clips.",
            autocompletion=completion.jobs_here,
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="Name of the new batch.")] = None,
    owner: Annotated[
        str | None, typer.Option("--owner", callback=checked_owner, help="The owner of the batch.")
    ] = None,
    wait: Wait = False,
    json: Json = False,
) -> int:
    """Make clips again as a new batch, with the same specification, seed and enhanced prompt."""
    settings = settings_of(ctx)
    with open_database(settings, upgrade=True) as database:
        inputs = imports.stored_inputs(settings)
        originals = [_source(database, settings, source, inputs) for source in sources]
        stored = store_again(
            [(_encodable(source), *original) for source, original in zip(sources, originals, strict=True)],
            settings=settings,
            database=database,
            inputs=inputs.stored,
            name=name or f"rerun-{_encodable(Path(sources[0]).stem[:40])}",
            owner=owner,
        )
        summary = f"{output.jobs(stored.total)} stored"
        return print_stored(
            stored, summary, originals[0][1], settings=settings, database=database, wait=wait, json=json
        )


def _encodable(text: str) -> str:
    """A file's name as UTF-8 has it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _source(database: Database, settings: Settings, source: str, inputs: StoredInputs) -> tuple[JobSpec, BatchOptions]:
    if source.endswith(".json") or "/" in source:
        imported, options = imports.of_sidecar(Path(source), settings, inputs)
        return imported.spec, options

    return as_made(database, source)
