"""The events of batches and jobs."""

from typing import Any

from pydantic import Field

from db.models import Event
from db.reading.history import Entry
from service.views.base import View, when


class EventView(View):
    """Something that happened."""

    at: str
    kind: str
    data: dict[str, Any]


class EntryView(View):
    """One thing that happened to a batch or job; with `--jsonl` a line each."""

    at: str = Field(description="ISO 8601, UTC, by the database's clock; an attempt's end.")
    kind: str = Field(description="The kind of event; `attempt` is an attempt at a step that ended.")
    batch_id: str | None
    job_id: str | None = Field(description="null for what concerns the whole batch.")
    data: dict[str, Any] = Field(
        description="For an attempt: stage, segment (from 0), attempt, outcome, worker, queue, started_at, ended_at "
        "(milliseconds since 1970), error_code, error. Of a step of an evaluation run eval_run and "
        "family in place of segment."
    )


class EventsView(View):
    """What happened to a batch or job, in the order of time."""

    batch_id: str
    job_id: str | None = Field(description="null for the history of a whole batch.")
    entries: list[EntryView]


class EventsPageView(EventsView):
    """A part of that, in the order in which it was written."""

    next: str = Field(description="Where the next page begins: its `after`, or the stream's.")
    has_more: bool = Field(description="Whether more of it was there already.")


def event_view(event: Event) -> EventView:
    return EventView.of(event, at=when(event.at))


def entry_view(entry: Entry) -> EntryView:
    return EntryView.of(entry, at=when(entry.at))
