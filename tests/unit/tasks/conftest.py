from tests.db_fixtures import (
    _postgres_engine,
    _sqlite_engine,
    database,
    postgres_database,
    sqlite_database,
    sqlite_template,
)

__all__ = ["_postgres_engine", "_sqlite_engine", "database", "postgres_database", "sqlite_database", "sqlite_template"]
