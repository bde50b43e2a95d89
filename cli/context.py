"""What commands share: the settings and the database."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli import output
from pipeline import settings as sources
from pipeline.errors import NoSuchRowError, NotFoundError, ServiceUnavailableError, SettingsError
from pipeline.files.private import require_own_folder
from pipeline.redaction import redact_logs, shown_setting
from pipeline.settings import Settings, load_settings
from pipeline.settings.project import DATABASE_NAME, HOME_NAME
from pipeline.storage import FolderStorage
from pipeline.wiring import make_storage

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db.session import Database

_TOLD = "vgen.settings_notices"


def settings_of(ctx: typer.Context) -> Settings:
    """The settings, with the options before the command on top. Raises SettingsError."""
    settings = load_settings(**(ctx.find_root().obj or {}))
    prepare(ctx, settings)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    redact_logs()
    if settings.log_level != "DEBUG":
        # It warns of a missing host name, which the in-process broker of solo mode does not have.
        logging.getLogger("kombu.connection").setLevel(logging.ERROR)
    return settings


def notices_of(ctx: typer.Context) -> list[str]:
    """Return notices about the sources of the settings: ignored ones, and names that are not settings."""
    return sources.notices_of(**(ctx.find_root().obj or {}))


def prepare(ctx: typer.Context, settings: Settings) -> None:
    """Make the process's files the user's own, and print notices: the first use of its settings.

    Raises:
        SettingsError: one of the folders may be another user's.
    """
    os.umask(int(settings.umask, 8))
    for name, folder in settings.folders.items():
        try:
            require_own_folder(folder)
        except PermissionError as error:
            raise SettingsError(f"{name}: {error.filename} cannot be used: {error.strerror}") from None
    meta = ctx.find_root().meta
    if not meta.get(_TOLD):
        meta[_TOLD] = True
        for text in notices_of(ctx):
            output.notice(text)


@contextmanager
def open_database(settings: Settings, *, upgrade: bool = False) -> Iterator[Database]:
    """The database, closed at the end; ``upgrade`` makes a solo home's database when it is not there.

    Raises:
        NotFoundError: nothing was ever submitted in this home.
        ServiceUnavailableError: it cannot be reached, or its tables are not those of this release yet.
    """
    from db import schema  # with Alembic
    from db.session import Database

    if settings.database_url is None and not upgrade and not (settings.home / DATABASE_NAME).exists():
        raise NotFoundError(_nothing_yet(settings))
    database = Database(settings.effective_database_url)
    try:
        if upgrade and database.is_sqlite:
            schema.upgrade(database)
        elif (problem := schema.behind(database)) is not None:
            raise ServiceUnavailableError(problem)
        yield database
    except NoSuchRowError as error:
        raise NotFoundError(f"{error} (looked in {where(settings)})") from None
    finally:
        database.close()


@contextmanager
def open_history(settings: Settings) -> Iterator[Session | None]:
    """A session on what was made before; None where there is nothing yet, or the database is away, which is said."""
    with ExitStack() as stack:
        session = None
        try:
            session = stack.enter_context(stack.enter_context(open_database(settings)).reading(one_instant=True))
        except NotFoundError:
            pass
        except ServiceUnavailableError as error:
            output.notice(f"what was made before is not known: {error}")
        yield session


def where(settings: Settings) -> str:
    """Return which database the settings name, without its password, for people who find nothing there."""
    return shown_setting(settings.database_url) if settings.database_url else str(settings.home.absolute())


def _nothing_yet(settings: Settings) -> str:
    if settings.home == Path(HOME_NAME):
        return (
            f"nothing was submitted yet: there is no {HOME_NAME} in {settings.home.absolute().parent} or above it; "
            "`vgen run FILE` makes one, --home or VGEN_HOME names another"
        )
    return f"nothing was submitted yet in {settings.home.absolute()} (VGEN_HOME)"


def folder_of(settings: Settings) -> Path | None:
    """Return the folder of clips when the store is a folder; None for S3."""
    storage = make_storage(settings)
    return storage.root if isinstance(storage, FolderStorage) else None
