"""Watches which moves rows make, by triggers: those that no code meant to make too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from db.session import Database
from pipeline.states import JOB_MOVES, STEP_MOVES

TABLES = ("jobs", "steps", "score_steps")
_SQLITE = """CREATE TRIGGER watch_{0} AFTER UPDATE OF state ON {0} WHEN OLD.state <> NEW.state
BEGIN INSERT INTO moves_seen VALUES ('{0}', OLD.state, NEW.state); END"""
_FUNCTION = """CREATE FUNCTION watch_{0}() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO moves_seen VALUES ('{0}', OLD.state, NEW.state); RETURN NEW; END $$"""
_POSTGRES = """CREATE TRIGGER watch_{0} AFTER UPDATE ON {0} FOR EACH ROW WHEN (OLD.state <> NEW.state)
EXECUTE FUNCTION watch_{0}()"""


@contextmanager
def watched(database: Database) -> Iterator[None]:
    """Fails if a row of a table with states makes a move meanwhile that ``pipeline.states`` does not allow."""
    statements = (_SQLITE,) if database.is_sqlite else (_FUNCTION, _POSTGRES)
    with database.transaction() as session:
        session.execute(text("CREATE TABLE moves_seen (of_table text, was text, became text)"))
        for table in TABLES:
            for statement in statements:
                session.execute(text(statement.format(table)))
    try:
        yield
        with database.reading() as session:
            seen = {tuple(row) for row in session.execute(text("SELECT DISTINCT * FROM moves_seen"))}
    finally:
        with database.transaction() as session:
            for table in TABLES:
                session.execute(text(f"DROP TRIGGER watch_{table}" + ("" if database.is_sqlite else f" ON {table}")))
                if not database.is_sqlite:
                    session.execute(text(f"DROP FUNCTION watch_{table}()"))
            session.execute(text("DROP TABLE moves_seen"))
    allowed = {
        (table, was.value, became.value)
        for table in TABLES
        for was, targets in (JOB_MOVES if table == "jobs" else STEP_MOVES).items()
        for became in targets
    }
    assert seen, "nothing moved"
    assert seen <= allowed, f"not moves of pipeline.states: {sorted(seen - allowed)}"
