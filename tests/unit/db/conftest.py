from tests.db_fixtures import (
    _postgres_with_tables,
    _sqlite_template,
    database,
    postgres_database,
    sqlite_database,
)

__all__ = ["_postgres_with_tables", "_sqlite_template", "database", "postgres_database", "sqlite_database"]
