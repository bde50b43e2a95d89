"""Bringing the tables to this release's form, and telling whether they are in it."""

from __future__ import annotations

import warnings
from pathlib import Path
from threading import Lock

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import db.models
import migrations
from db.base import Base
from db.session import Database

__all__ = ["behind", "check", "upgrade"]
_one_thread = Lock()  # alembic keeps the current migration in a module's globals
assert db.models  # imported for its effect: the tables register themselves


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


def upgrade(database: Database) -> None:
    """Apply every migration that is missing. Several processes may do so at once: one works, the others wait."""
    config = _config()
    with _one_thread, database.transaction() as session:
        config.attributes["connection"] = session.connection()
        command.upgrade(config, "head")


def revision(database: Database) -> str | None:
    """The migration that the database is at; None when it is empty."""
    with database.reading() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


def behind(database: Database) -> str | None:
    """Why this release must not work on the database: it has no tables, or those of a release before. None: it may.

    A newer schema is none of our business: its migrations left out nothing that this release needs.
    """
    current = revision(database)
    if current is None:
        return "the database has no tables: run `vgen db upgrade`"
    script = ScriptDirectory.from_config(_config())
    head = script.get_current_head()
    if current != head and current in {known.revision for known in script.walk_revisions()}:
        return f"the schema is at {current}, this release needs {head}: run `vgen db upgrade`"
    return None


def check(database: Database) -> list[str]:
    """What is wrong with the schema, a sentence each; empty when it is this release's."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    with database.reading() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": False})
        current = context.get_current_revision()
        if current is None:
            return ["the database is empty: run `vgen db upgrade`"]
        if current != head:
            return [f"the schema is at {current}, this release needs {head}: run `vgen db upgrade`"]
        with warnings.catch_warnings():
            # Alembic cannot read back an index on an expression from SQLite, and says so each time.
            warnings.filterwarnings("ignore", message="autogenerate skipping", category=UserWarning)
            differences = compare_metadata(context, Base.metadata)
        return [f"the schema differs from the models: {difference!r}" for difference in differences]
