"""Upgrades the tables to this release's schema, and checks their version."""

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
from pipeline.errors import ConflictError

__all__ = ["behind", "check", "upgrade"]
_DEVELOPMENT = frozenset(f"000{number}" for number in range(1, 7))
"""Migrations of development versions before 0.1.0, which no later one follows."""
_one_thread = Lock()  # alembic keeps the current migration in a module's globals
assert db.models  # imported for its effect: the tables register themselves


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


def upgrade(database: Database) -> None:
    """Apply every migration that is missing. Several processes may do so at once: one works, the others wait.

    A schema newer than this release is left as it is.

    Raises:
        ConflictError: the tables are those of a development version.
        ServiceUnavailableError: the database is away, or work at hand did not let go of a table in time.
    """
    config = _config()
    current = revision(database)
    if current in _DEVELOPMENT:
        raise ConflictError(_unusable(current))
    if current is not None and current not in _known():
        return
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
    if current in _DEVELOPMENT:
        return _unusable(current)
    if current != (head := _head()) and current in _known():
        return f"the schema is at {current}, this release needs {head}: run `vgen db upgrade`"
    return None


def _head() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def _known() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _unusable(revision: str) -> str:
    return (
        f"the tables are those of a development version before 0.1.0 (schema {revision}), which cannot be upgraded: "
        "use another database or another VGEN_HOME; clips that were published stay in their store"
    )


def check(database: Database) -> list[str]:
    """Say what is wrong with the schema, a sentence each; empty when it is this release's."""
    head = _head()
    with database.reading() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": False})
        current = context.get_current_revision()
        if current is None:
            return ["the database is empty: run `vgen db upgrade`"]
        if current in _DEVELOPMENT:
            return [_unusable(current)]
        if current != head:
            return [f"the schema is at {current}, this release needs {head}: run `vgen db upgrade`"]
        with warnings.catch_warnings():
            # Alembic cannot read back an index on an expression from SQLite, and says so each time.
            warnings.filterwarnings("ignore", message="autogenerate skipping", category=UserWarning)
            differences = compare_metadata(context, Base.metadata)
        return [f"the schema differs from the models: {difference!r}" for difference in differences]
