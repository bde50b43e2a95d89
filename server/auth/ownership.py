"""The one clause that keeps an owner's rows from others."""

from typing import Any, TypeVar

from sqlalchemy import Select

from db.models import Batch
from server.auth.caller import Caller

Query = TypeVar("Query", bound=Select[*tuple[Any, ...]])


def owned(query: Query, caller: Caller) -> Query:
    """Return the query, which selects from or joins ``Batch``, for the batches that the caller may see."""
    return query if caller.sees_all else query.where(Batch.owner == caller.owner)
