"""What a batch is asked of: the rows of this machine's settings, or a server by its URL. Both give the same answers."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from service.choices import SubmissionChoices
from service.views.batches import BatchListView, JobListView, StatusView
from service.views.clips import FileView
from service.views.events import EventsPageView
from service.views.operations import ChangedView
from service.views.submissions import SubmittedView
from vgen.batches.prompts import PromptFile


class Backend(Protocol):
    """The operations that both kinds have. All raise the errors of ``pipeline.errors``."""

    def submit(self, prompts: PromptFile, choices: SubmissionChoices) -> SubmittedView: ...

    def batches(self, after: str | None) -> BatchListView: ...

    def status(self, batch_id: str) -> StatusView: ...

    def jobs(self, batch_id: str, after: str | None) -> JobListView: ...

    def files(self, job_id: str) -> list[FileView]: ...

    def events(self, batch_id: str, after: str | None) -> EventsPageView: ...

    def cancel(self, batch_id: str) -> ChangedView: ...

    def retry(self, batch_id: str) -> ChangedView: ...

    def fetch_video(self, job_id: str, file: FileView, target: Path) -> None:
        """Write a clip's bytes to ``target``; whoever calls checks them."""

    def working(self) -> AbstractContextManager[Callable[[], None]]:
        """Work off what waits meanwhile, where nobody else would: on one machine, without a cluster.

        The callable raises what the work ended by, if it did.
        """

    def close(self) -> None: ...
