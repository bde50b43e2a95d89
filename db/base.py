"""The base of all tables: naming of constraints, and the types that behave alike on Postgres and SQLite."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Insert, Integer, MetaData, String, Table, TypeDecorator
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

ROW_ID = String(40)
"""Ids of batches, jobs and evaluation runs."""

Json = JSON().with_variant(JSONB(), "postgresql")
"""JSONB reorders keys: hash a canonical form, never what is stored."""

BigId = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite numbers rows by itself only in an INTEGER column, which holds 64 bits there."""


class EnumText(TypeDecorator[StrEnum]):
    """An enum stored as its value, in a text column. The table adds a CHECK: native enums are painful to change."""

    impl = String
    cache_ok = True

    def __init__(self, enum: type[StrEnum]) -> None:
        super().__init__(32)
        self.enum = enum

    def process_bind_param(self, value: StrEnum | str | None, dialect: Dialect) -> str | None:
        return None if value is None else self.enum(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:
        return None if value is None else self.enum(value)


def one_of(column: str, enum: type[StrEnum]) -> str:
    """The text of a CHECK that a column holds a member of the enum."""
    return f"{column} IN ({', '.join(repr(member.value) for member in enum)})"


def insert_into(dialect: str, table: type[DeclarativeBase] | Table) -> postgresql.Insert | sqlite.Insert:
    """The INSERT of that database, which can say what to do about a row that is there already."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def upsert(
    dialect: str, table: type[DeclarativeBase] | Table, key: Sequence[str], replaced: Sequence[str], **values: Any
) -> Insert:
    """An INSERT that, where a row has that key already, replaces these of its columns."""
    new = insert_into(dialect, table).values(**values)
    return new.on_conflict_do_update(index_elements=key, set_={name: new.excluded[name] for name in replaced})


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
