"""Checks whether a SQLite file is damaged; SQLite itself notices that only in the pages that it reads."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy.exc import DBAPIError

MEND = "restore it from a backup, or move it away to start with an empty one"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_RULES = {
    **dict.fromkeys(("INTEGER", "BIGINT"), "{0} IS NULL OR typeof({0}) = 'integer'"),
    **dict.fromkeys(("VARCHAR", "TEXT"), "{0} IS NULL OR typeof({0}) = 'text'"),
    "BOOLEAN": "{0} IS NULL OR {0} IN (0, 1)",
    **dict.fromkeys(("FLOAT", "DOUBLE"), "{0} IS NULL OR typeof({0}) IN ('real', 'integer')"),
    "JSON": "{0} IS NULL OR (typeof({0}) = 'text' AND json_valid({0}))",
}
"""The conditions on every value of a column, by the type that SQLAlchemy declares."""
_PRIMARY = 0xFF
"""The part of an extended result code that names its kind (SQLite, result codes)."""


def is_damage(error: DBAPIError) -> bool:
    """Return whether SQLite itself says that the file is damaged, or no database at all."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return isinstance(code, int) and code & _PRIMARY in _DAMAGED


def damage_of(file: str | None) -> str | None:
    """Say what is wrong with the file, by reading all of it; None when nothing is, or when it is unknown."""
    if not file or not Path(file).is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{Path(file).absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            first = connection.execute("PRAGMA quick_check(1)").fetchone()
            if first is not None and first[0] != "ok":
                return str(first[0]).splitlines()[-1]
            return _wrong_value(connection)
    except sqlite3.OperationalError:  # it is away, or locked
        return None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return str(error)


def _wrong_value(connection: sqlite3.Connection) -> str | None:
    """The first value that is not of its column's type: nothing but damage makes one."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    for (table,) in tables.fetchall():
        rules = [
            rule.format(f'"{name}"')
            for _, name, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall()
            if (rule := _RULES.get(kind.partition("(")[0].upper())) is not None
        ]
        wrong = " OR ".join(f"NOT ({rule})" for rule in rules)
        if wrong and connection.execute(f'SELECT 1 FROM "{table}" WHERE {wrong} LIMIT 1').fetchone():
            return f"table {table} holds a value that is not of its column's type"
    return None
