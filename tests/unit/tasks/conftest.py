from tests.db_fixtures import _sqlite_engine, sqlite_database, sqlite_template

__all__ = ["_sqlite_engine", "sqlite_database", "sqlite_template"]
