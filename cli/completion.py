"""Shell completion of ids, presets and labels. On any error it completes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from pipeline.settings import Settings, load_settings
from pipeline.settings.project import DATABASE_NAME

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_MOST = 100
Choice = tuple[str, str]
"""A word, and what is said beside it."""


def batches_here(ctx: typer.Context, incomplete: str) -> list[Choice]:
    """Ids of the newest batches, with their names."""
    return _from_rows(ctx, lambda session: _batches(session, incomplete))


def jobs_here(ctx: typer.Context, incomplete: str) -> list[Choice]:
    """Ids and custom_ids of the newest jobs, with their states."""
    return _from_rows(ctx, lambda session: _jobs(session, incomplete))


def targets_here(ctx: typer.Context, incomplete: str) -> list[Choice]:
    """Batches, then jobs."""
    return _from_rows(ctx, lambda session: [*_batches(session, incomplete), *_jobs(session, incomplete)])


def labels_here(ctx: typer.Context, incomplete: str) -> list[Choice]:
    """Labels of the newest jobs."""
    return _from_rows(ctx, lambda session: _labels(session, incomplete))


def presets_here(ctx: typer.Context, incomplete: str) -> list[Choice]:
    """The presets that `vgen models list` shows."""
    from pipeline.presets import load_library

    with contextlib.suppress(Exception):
        presets = load_library(_settings(ctx).effective_presets_dir).presets.values()
        names = [(preset.name, preset.description) for preset in presets if not preset.hidden]
        return [choice for choice in names if choice[0].startswith(incomplete)]
    return []


def _from_rows(ctx: typer.Context, read: Callable[[Session], Sequence[Choice]]) -> list[Choice]:
    with contextlib.suppress(Exception), _session(ctx) as session:
        return list(read(session))
    return []


@contextlib.contextmanager
def _session(ctx: typer.Context) -> Iterator[Session]:
    """A session of a database that is there. Raises FileNotFoundError where nothing was submitted yet."""
    from db.session import Database

    settings = _settings(ctx)
    if settings.database_url is None and not (settings.home / DATABASE_NAME).exists():
        raise FileNotFoundError
    database = Database(settings.effective_database_url)
    try:
        with database.reading() as session:
            yield session
    finally:
        database.close()


def _settings(ctx: typer.Context) -> Settings:
    home = ctx.find_root().params.get("home")
    return load_settings(**({} if home is None else {"home": home}))


def _batches(session: Session, incomplete: str) -> list[Choice]:
    from sqlalchemy import select

    from db.models import Batch

    query = select(Batch.id, Batch.name).where(Batch.id.startswith(incomplete, autoescape=True))
    rows = session.execute(query.order_by(Batch.id.desc()).limit(_MOST)).all()
    latest = [("latest", "the newest batch")] if rows and "latest".startswith(incomplete) else []
    return [*latest, *((row.id, row.name) for row in rows)]


def _jobs(session: Session, incomplete: str) -> list[Choice]:
    from sqlalchemy import or_, select

    from db.models import Job

    begins = [column.startswith(incomplete, autoescape=True) for column in (Job.id, Job.custom_id)]
    query = select(Job.id, Job.custom_id, Job.state).where(or_(*begins)).order_by(Job.id.desc()).limit(_MOST)
    choices = []
    for row in session.execute(query):
        name = row.custom_id if row.custom_id and row.custom_id.startswith(incomplete) else row.id
        choices.append((name, row.state.value))
    return choices


def _labels(session: Session, incomplete: str) -> list[Choice]:
    from sqlalchemy import select

    from db.models import Job

    specs = session.scalars(select(Job.spec).order_by(Job.id.desc()).limit(10 * _MOST))
    labels = {f"{name}={value}": "" for spec in specs for name, value in spec.get("labels", {}).items()}
    return [(label, "") for label in sorted(labels) if label.startswith(incomplete)][:_MOST]
