from tests.db_fixtures import _sqlite_template, sqlite_database

__all__ = ["_sqlite_template", "sqlite_database"]
