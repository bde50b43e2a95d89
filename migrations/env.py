"""Alembic's environment: vgen hands over the connection, for ``vgen db upgrade`` and for the tests alike."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

import db.models
from db.base import Base

assert db.models
_LOCK_ID = 8_432_617  # any constant of our own: one upgrade at a time on Postgres

connection = context.config.attributes["connection"]
if connection.dialect.name == "postgresql":
    connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
    # An upgrade that cannot have its lock gives up instead of holding up every worker behind it.
    connection.execute(text("SET LOCAL lock_timeout = '10s'"))
context.configure(
    connection=connection, target_metadata=Base.metadata, render_as_batch=connection.dialect.name == "sqlite"
)
with context.begin_transaction():
    context.run_migrations()
