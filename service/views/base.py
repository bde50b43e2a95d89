"""The base of every view."""

from datetime import UTC, datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class View(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def of(cls, row: object, **others: Any) -> Self:
        """The view of a row: ``others``, and its attributes of the remaining fields' names."""
        return cls(**{name: getattr(row, name) for name in cls.model_fields if name not in others}, **others)


def when(milliseconds: int) -> str:
    """Database milliseconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def when_if_set(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else when(milliseconds)
