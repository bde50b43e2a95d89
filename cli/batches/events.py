"""`vgen events`: the history of a batch or job, read from rows."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Annotated

import typer

from cli import output
from cli.context import open_database, settings_of
from cli.interrupt import Interrupt
from cli.options import Json
from db.clips import batches, jobs
from db.reading import history
from db.reading.history import Entry
from db.session import Database
from pipeline.errors import InputError, Problem
from pipeline.states import TERMINAL_JOB_STATES
from service.exit_codes import ExitCode
from service.views.events import EventsView, entry_view

POLL_S = 0.5
_LATE_S = 10.0
"""Rows become visible when their transaction ends, not in the order of their ids: so long one may come late."""


def events(
    ctx: typer.Context,
    of: Annotated[str, typer.Argument(metavar="ID", help="A batch's id, the start of one, 'latest', or a job's id.")],
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the batch or job has ended.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print a JSON object a line.")] = False,
    json: Json = False,
) -> int:
    """What happened to a batch or job, in the order of time: events, and attempts as they ended."""
    if json and (follow or jsonl):
        raise InputError([Problem("prints one document; use --jsonl for lines", field="--json")])
    settings = settings_of(ctx)
    with open_database(settings) as database:
        history = _History(database, *_whose(database, of), follow=follow)
        if json:
            views = [entry_view(entry) for entry in history.news()]
            output.as_json(EventsView(batch_id=history.batch_id, job_id=history.job_id, entries=views))
            return ExitCode.DONE
        with Interrupt("no longer following; the work goes on") as interrupt:
            while True:
                ended = not follow or history.ended()  # asked before the last poll, so that it misses nothing
                for entry in history.news():
                    _show(entry, jsonl)
                output.flush()
                if ended:
                    return ExitCode.DONE
                if interrupt.wait(POLL_S):
                    return ExitCode.INTERRUPTED


def _whose(database: Database, of: str) -> tuple[str, str | None]:
    """The ids of the batch and, where one was named, of the job. Raises NotFoundError."""
    with database.reading() as session:
        if "-" in of:
            return jobs.get(session, of).batch_id, of
        return batches.get(session, of).id, None


class _History:
    """The rows of one batch or job; when they are followed, each is told once."""

    def __init__(self, database: Database, batch_id: str, job_id: str | None, *, follow: bool) -> None:
        self._database, self.batch_id, self.job_id, self._follow = database, batch_id, job_id, follow
        self._floor = {"event": 0, "attempt": 0, "score_attempt": 0}
        self._shown = {source: set[int]() for source in self._floor}
        self._marks: deque[tuple[float, dict[str, int]]] = deque()

    def news(self) -> Iterator[Entry]:
        """Return the entries that were not shown before, in the order of time."""
        now = time.monotonic()
        while self._marks and now - self._marks[0][0] > _LATE_S:
            self._floor = self._marks.popleft()[1]
        for source, numbers in self._shown.items():
            self._shown[source] = {number for number in numbers if number > self._floor[source]}
        highest = dict(self._floor)
        of = {"batch_id": self.batch_id} if self.job_id is None else {"job_id": self.job_id}
        with self._database.reading(one_instant=True) as session:
            for entry in history.entries(session, after=history.Seen(**self._floor), **of):
                highest[entry.source] = max(highest[entry.source], entry.id)
                if entry.id not in self._shown[entry.source]:
                    if self._follow:
                        self._shown[entry.source].add(entry.id)
                    yield entry
        self._marks.append((now, highest))

    def ended(self) -> bool:
        with self._database.reading() as session:
            if self.job_id is not None:
                return jobs.get(session, self.job_id).state in TERMINAL_JOB_STATES
            counts = batches.counts(session, [self.batch_id])[self.batch_id]
        return not any(count for state, count in counts.items() if state not in TERMINAL_JOB_STATES)


def _show(entry: Entry, jsonl: bool) -> None:
    view = entry_view(entry)
    if jsonl:
        output.raw_json(view.model_dump(mode="json"))
        return
    about = " ".join(f"{name}={value}" for name, value in view.data.items() if value not in (None, ""))
    output.line(f"{view.at}\t{view.job_id or view.batch_id}\t{view.kind}\t{about}")
