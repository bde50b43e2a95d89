"""`vgen gallery BATCH`: writes a batch as a wall of clips (to a folder or an S3 prefix) or as a contact sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.batches.status import states_of
from cli.context import open_database, settings_of
from cli.options import BatchArgument
from db.clips import batches
from db.session import Database
from pipeline.errors import InputError, Problem, SettingsError, VgenError
from pipeline.settings import Settings
from pipeline.states import JobState
from pipeline.storage import FolderStorage, Storage
from pipeline.wiring import make_storage
from service.views.batches import BatchView, batch_view

_MOST_LINKED = 10_000
"""A solo run of more clips writes no gallery by itself: reading them again would take long."""


def gallery(
    ctx: typer.Context,
    batch: BatchArgument = "latest",
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FOLDER", help="A folder, or s3://bucket/prefix; default: gallery-BATCH."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="FILE", help="Write a contact sheet of posters and prompts instead, as PNG."),
    ] = None,
    state: Annotated[list[str] | None, typer.Option("--state", help="Only jobs in this state; repeatable.")] = None,
) -> int:
    """Write a batch's clips as HTML pages that need no server."""
    if sheet is not None and out is not None:
        raise InputError([Problem("give --out for pages or --sheet for a picture, not both", field="--sheet")])
    states = states_of(state or [])
    settings = settings_of(ctx)
    with open_database(settings) as database:
        view = _batch(database, batch)
        if sheet is not None:
            return _write_sheets(database, settings, view, sheet, states)
        _write_pages(database, settings, view, out or f"gallery-{view.id}", states)
    return 0


def _write_pages(database: Database, settings: Settings, view: BatchView, out: str, states: list[JobState]) -> None:
    from service.gallery import clips_of, copied, write
    from service.gallery.writer import own_files

    target = _target(settings, out)
    before = own_files(target, view.id)
    media = copied(make_storage(settings), target, before)
    written = write(target, view, clips_of(database, view.id, states), media, before)
    if written.missing:
        output.notice(f"clips that the store does not have, or cannot give now: {written.missing}; their cards say so")
    where = target.root / "index.html" if isinstance(target, FolderStorage) else f"{out.rstrip('/')}/index.html"
    output.line(f"{written.clips} clips: {where}")


def _write_sheets(database: Database, settings: Settings, view: BatchView, path: Path, states: list[JobState]) -> int:
    from service.gallery import clips_of
    from service.gallery.sheet import write_sheets

    if path.suffix.lower() != ".png":
        raise InputError([Problem(f"{str(path)!r} must end in .png", field="--sheet")])
    try:
        for written in write_sheets(path, view, clips_of(database, view.id, states), make_storage(settings)):
            output.line(str(written.absolute()))
    except OSError as error:
        raise InputError([Problem(f"{str(path)!r} cannot be written: {error.strerror}", field="--sheet")]) from None
    return 0


def _target(settings: Settings, out: str) -> Storage:
    """Return the place that -o names. Raises InputError."""
    try:
        return make_storage(settings.model_copy(update={"storage": out}))
    except SettingsError as error:
        raise InputError([Problem(str(error).removeprefix("VGEN_STORAGE "), field="-o")]) from None


def _batch(database: Database, batch_id: str) -> BatchView:
    with database.reading() as session:
        row = batches.get(session, batch_id)
        return batch_view(row, batches.counts(session, [row.id])[row.id])


def show(database: Database, settings: Settings, batch_ids: Sequence[str]) -> None:
    """Write the galleries of a solo run's batches, and print their paths: they are what is looked at next."""
    for batch_id in batch_ids:
        try:
            page = _beside_clips(database, settings, batch_id)
        except (VgenError, OSError) as error:  # the clips are made all the same
            output.notice(f"no gallery was written: {error}")
        else:
            output.line(f"`vgen gallery {batch_id}` writes its gallery" if page is None else f"gallery: {page}")


def _beside_clips(database: Database, settings: Settings, batch_id: str) -> Path | None:
    """Write a gallery with links to the clips where they are; its first page.

    None where the store is not a folder, and for a batch of very many clips.
    """
    from service.gallery import clips_of, linked, write
    from service.gallery.writer import own_files

    storage, view = make_storage(settings), _batch(database, batch_id)
    if not isinstance(storage, FolderStorage) or view.total > _MOST_LINKED:
        return None
    folder = settings.home / "gallery" / view.id
    target = FolderStorage(folder, confined_to=settings.confined_to(folder))
    before = own_files(target, view.id)
    write(target, view, clips_of(database, view.id), linked(storage, folder, settings.home), before)
    return target.root / "index.html"
