"""Selects jobs by their properties, a page at a time, so that changes of many jobs hold no long lock."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, String, exists, func, literal, select, true
from sqlalchemy.orm import Session

from db.models import Batch, Job
from db.session import Database
from pipeline.states import JobState


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice among a batch's jobs."""

    states: Sequence[JobState]
    code: str | None = None
    """The error that ended them."""
    label: tuple[str, str | None] | None = None
    """A label's name, and its value unless any will do."""


def batches_with(session: Session, selection: Selection) -> Sequence[str]:
    """Return every batch that may have such jobs, oldest first: one at rest has none that are open."""
    query = select(Batch.id).order_by(Batch.id)
    if not set(selection.states) & {JobState.FAILED, JobState.BLOCKED, JobState.CANCELLED, JobState.SUCCEEDED}:
        query = query.where(Batch.active)
    return session.scalars(query).all()


def pages(database: Database, batch_id: str, selection: Selection, *, size: int) -> Iterator[list[str]]:
    """The ids of the jobs, in the order of the file. What is changed between two pages changes no later page."""
    after = -1
    while True:
        query = _chosen(batch_id, selection, sqlite=database.is_sqlite).where(Job.seq > after).limit(size)
        with database.reading() as session:
            rows = session.execute(query).all()
        if not rows:
            return
        after = rows[-1].seq
        yield [row.id for row in rows]


def _chosen(batch_id: str, selection: Selection, *, sqlite: bool) -> Select[str, int]:
    query = select(Job.id, Job.seq).where(Job.batch_id == batch_id, Job.state.in_(selection.states)).order_by(Job.seq)
    if selection.code is not None:
        query = query.where(Job.error_code == selection.code)
    if selection.label is not None:
        query = query.where(labelled(*selection.label, sqlite=sqlite))
    return query


def labelled(name: str, value: str | None, *, sqlite: bool) -> ColumnElement[bool]:
    """The condition that a job has this label; of a name without a value any value will do."""
    if sqlite:
        # A path such as $."labels"."größe" does not find the name as it is stored: "gr\u00f6\u00dfe".
        pairs = func.json_each(Job.spec, literal("$.labels", String)).table_valued("key", "value")
        return exists().where(pairs.c.key == name, true() if value is None else pairs.c.value == value)
    held: ColumnElement[str] = Job.spec["labels"][name].as_string()
    return held.is_not(None) if value is None else held == value
