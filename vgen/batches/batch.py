"""A batch and its clips, as a program sees them."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from pipeline.errors import ConflictError, NotFoundError, RetryableError
from pipeline.files.digests import file_sha256
from pipeline.files.drafts import draft_of
from pipeline.files.object_names import slug
from service.views.batches import StatusView
from service.views.clips import FileView
from service.views.events import EntryView
from service.views.jobs import JobView
from service.views.operations import ChangedView
from service.views.submissions import SubmittedView
from vgen.batches.backend import Backend

_POLL_S = 0.5
_MOVING = ("waiting", "in_flight")
"""States of jobs that go on without a person."""


class Batch:
    """A stored batch. What it says is asked anew at each call; ``*_async`` are the same without blocking a loop."""

    def __init__(self, backend: Backend, batch_id: str, submitted: SubmittedView | None = None) -> None:
        self.id = batch_id
        self.submitted = submitted
        """The answer to the submission: whether it is new, and what should be known of it; None of an older batch."""
        self._backend = backend

    def __repr__(self) -> str:
        return f"Batch({self.id!r})"

    def status(self) -> StatusView:
        """Where the batch stands: jobs by state, what runs, what failed, what is expected."""
        return self._backend.status(self.id)

    def wait(self, timeout_s: float | None = None) -> StatusView:
        """Wait until every job has ended, or until what is left needs a person; where it stands then.

        On one machine without a cluster the clips are made meanwhile, by this process, as `vgen run` would.

        Raises:
            TimeoutError: it took longer than ``timeout_s``; the batch goes on.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        with self._backend.working() as check:
            while not _rests(status := self.status()):
                check()
                if end is not None and time.monotonic() >= end:
                    raise TimeoutError(f"batch {self.id} has not ended within {timeout_s:g} s; it continues")
                time.sleep(_POLL_S)
        return status

    def results(self) -> list["Clip"]:
        """The batch's clips, made or not, in the order of its prompts."""
        clips: list[Clip] = []
        after = None
        while True:
            page = self._backend.jobs(self.id, after)
            clips += [Clip(self._backend, job) for job in page.jobs]
            if not page.has_more:
                return clips
            after = page.jobs[-1].id

    def events(self, *, follow: bool = True) -> Iterator[EntryView]:
        """What happened, in order; with ``follow`` until the batch has ended, else what is there now."""
        after = None
        while True:
            rests = not follow or _rests(self.status())
            page = self._backend.events(self.id, after)
            yield from page.entries
            after = page.next
            if rests and not page.has_more:
                return
            if not page.entries:
                time.sleep(_POLL_S)

    def cancel(self) -> ChangedView:
        """Stop its jobs; running ones stop within a step, and what has succeeded stays."""
        return self._backend.cancel(self.id)

    def retry(self) -> ChangedView:
        """Queue failed and cancelled jobs again, from the step where they ended."""
        return self._backend.retry(self.id)

    async def status_async(self) -> StatusView:
        return await asyncio.to_thread(self.status)

    async def wait_async(self, timeout_s: float | None = None) -> StatusView:
        return await asyncio.to_thread(self.wait, timeout_s)

    async def results_async(self) -> list["Clip"]:
        return await asyncio.to_thread(self.results)

    async def events_async(self, *, follow: bool = True) -> AsyncIterator[EntryView]:
        entries = self.events(follow=follow)
        while (entry := await asyncio.to_thread(next, entries, None)) is not None:
            yield entry


def _rests(status: StatusView) -> bool:
    """Whether nothing of it moves before a person says so: it has ended, is held, paused or over its budget."""
    moving = any(status.batch.counts.get(state) for state in _MOVING)
    return not moving or (status.outlook.stopped is not None and not status.running)


class Clip:
    """One job of a batch, and the clip that it makes."""

    def __init__(self, backend: Backend, job: JobView) -> None:
        self.job = job
        """The job as it was when it was asked for: state, prompt, seed, error."""
        self._backend = backend

    def __repr__(self) -> str:
        return f"Clip({self.job.id!r}, {self.job.state})"

    @property
    def succeeded(self) -> bool:
        return self.job.state == "succeeded"

    def files(self) -> list[FileView]:
        """Its published files: video, poster, strip and sidecar; none before it has succeeded."""
        return self._backend.files(self.job.id)

    def download(self, target: str | Path) -> Path:
        """Write the video to a path, or into a folder under a readable name; its bytes are checked by their digest.

        A file that is there already is left as it is where it is this clip.

        Raises:
            NotFoundError: it has no video, since it has not succeeded.
            ConflictError: another file has this name.
            RetryableError: the bytes that arrived are not those that were recorded.
        """
        video = next((file for file in self.files() if file.kind == "video"), None)
        if video is None:
            raise NotFoundError(f"job {self.job.id} has no video: it is {self.job.state}")
        path = Path(target)
        if path.suffix != ".mp4":
            path.mkdir(parents=True, exist_ok=True)
            path = path / f"{self.job.id}-{slug(self.job.prompt)}.mp4"
        if path.exists():
            if file_sha256(path) == video.sha256:
                return path
            raise ConflictError(f"{path} is there already, and is not the clip of job {self.job.id}: use another name")
        with draft_of(path) as draft:
            self._backend.fetch_video(self.job.id, video, draft)
            if (arrived := file_sha256(draft)) != video.sha256:
                message = f"job {self.job.id}: what arrived has sha256 {arrived}, recorded is {video.sha256}"
                raise RetryableError(message, code="storage_corrupt")
        return path

    async def download_async(self, target: str | Path) -> Path:
        return await asyncio.to_thread(self.download, target)
