"""Batches in the rows that this machine's settings name: a home's own database, or a cluster's."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import select

from db import schema
from db.clips import batches, jobs
from db.models import Batch, Job
from db.reading.feed import Feed
from db.reading.history import Seen
from db.session import Database
from pipeline import extras
from pipeline.errors import InputError, ServiceUnavailableError
from pipeline.prompts.parse import parse_bytes
from pipeline.settings import Settings
from pipeline.wiring import make_storage
from service import submission
from service.changes import job_changes
from service.choices import SubmissionChoices
from service.option_names import as_arguments
from service.status import status_of
from service.views.batches import BatchListView, JobListView, StatusView, batch_view
from service.views.clips import FileView, file_views
from service.views.events import EventsPageView, entry_view
from service.views.jobs import job_view
from service.views.operations import ChangedView
from service.views.submissions import SubmittedView
from vgen.batches.prompts import PromptFile

_PAGE = 500


class Rows:
    """The rows of one database, and the store beside it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.effective_database_url)
        try:
            if self._database.is_sqlite:
                settings.home.mkdir(parents=True, exist_ok=True)
                schema.upgrade(self._database)
            elif (problem := schema.behind(self._database)) is not None:
                raise ServiceUnavailableError(problem)
        except BaseException:
            self._database.close()
            raise
        self._storage = make_storage(settings)

    def submit(self, prompts: PromptFile, choices: SubmissionChoices) -> SubmittedView:
        settings, name = self._settings, f"{prompts.stem}.{prompts.format}"
        parsed = parse_bytes(prompts.data, name, overrides={}, settings=settings, folder=prompts.folder)
        try:
            prepared = submission.prepare(parsed, choices, settings, has_name=prompts.is_file)
        except InputError as error:
            raise as_arguments(error) from None
        return submission.submit(prepared, settings=settings, database=self._database)

    def batches(self, after: str | None) -> BatchListView:
        query = select(Batch).order_by(Batch.id.desc()).limit(_PAGE + 1)
        with self._database.reading() as session:
            rows = session.scalars(query if after is None else query.where(Batch.id < after)).all()
            counts = batches.counts(session, [row.id for row in rows[:_PAGE]])
        views = [batch_view(row, counts[row.id]) for row in rows[:_PAGE]]
        return BatchListView(batches=views, has_more=len(rows) > _PAGE)

    def status(self, batch_id: str) -> StatusView:
        with self._database.reading() as session:
            return status_of(session, batches.get(session, batch_id), self._settings)

    def jobs(self, batch_id: str, after: str | None) -> JobListView:
        with self._database.reading() as session:
            batch = batches.get(session, batch_id)
            last = None if after is None else session.get(Job, after)
            after_seq = -1 if last is None else last.seq
            rows = batches.job_rows(session, batch.id, after_seq=after_seq, limit=_PAGE + 1)
            view = batch_view(batch, batches.counts(session, [batch.id])[batch.id])
            return JobListView(batch=view, jobs=[job_view(row) for row in rows[:_PAGE]], has_more=len(rows) > _PAGE)

    def files(self, job_id: str) -> list[FileView]:
        with self._database.reading() as session:
            return file_views(jobs.artifacts(session, [job_id]).get(job_id, {}), {})

    def events(self, batch_id: str, after: str | None) -> EventsPageView:
        place = None if after is None else Seen(*map(int, after.split("-")))
        feed = Feed(self._database, batch_id, None, place)
        news = feed.poll_settled(_PAGE)
        entries = [entry_view(entry) for entry in news.entries]
        return EventsPageView(batch_id=batch_id, job_id=None, entries=entries, next=str(feed.place), has_more=news.more)

    def cancel(self, batch_id: str) -> ChangedView:
        changed = job_changes.cancel(self._database, [batch_id])
        job_changes.cancel_scoring(self._database, batch_id)
        return changed

    def retry(self, batch_id: str) -> ChangedView:
        return job_changes.retry(self._database, [batch_id])

    def fetch_video(self, job_id: str, file: FileView, target: Path) -> None:
        self._storage.download(file.key, target)

    @contextlib.contextmanager
    def working(self) -> Iterator[Callable[[], None]]:
        if not self._settings.solo:
            yield lambda: None
            return
        extras.require(extras.GENERATE, purpose="what makes clips")
        from tasks.hosts.standing_line import StandingLine  # noqa: PLC0415 - Celery, and a cluster's client needs none

        stopping = threading.Event()
        with StandingLine(self._settings, self._database, stopping) as line:

            def check() -> None:
                if line.error is not None:
                    raise line.error

            yield check

    def close(self) -> None:
        self._database.close()
