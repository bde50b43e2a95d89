"""Batches of a server, `vgen serve`, by its URL and a key."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from pipeline.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    Problem,
    ServiceUnavailableError,
    SettingsError,
    VgenError,
)
from service.choices import SubmissionChoices
from service.views.batches import BatchListView, JobListView, StatusView
from service.views.clips import FileView
from service.views.events import EventsPageView
from service.views.jobs import JobDetailView
from service.views.operations import ChangedView
from service.views.submissions import SubmittedView
from vgen.batches.prompts import PromptFile

_PREFIX = "/api/v1"
_PAGE = 500
_TIMEOUT_S = 60.0
_ERRORS: dict[int, type[VgenError]] = {
    401: SettingsError,
    403: SettingsError,
    404: NotFoundError,
    409: ConflictError,
    410: NotFoundError,
}
Answer = TypeVar("Answer", bound=BaseModel)


class Server:
    """A server, and the key that it knows this program by."""

    def __init__(self, url: str, key: str | None, *, transport: httpx.BaseTransport | None = None) -> None:
        address = httpx.URL(url)
        if address.scheme not in ("http", "https") or not address.host:
            raise InputError([Problem(f"{url!r} is not a server's URL: use one such as http://host:8000", field="url")])
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._url = url
        self._client = httpx.Client(base_url=address, headers=headers, timeout=_TIMEOUT_S, transport=transport)

    def submit(self, prompts: PromptFile, choices: SubmissionChoices) -> SubmittedView:
        if choices.owner is not None:
            raise InputError([Problem("a server knows the owner by the key: leave it out", field="owner")])
        chosen = {name: value for name, value in asdict(choices).items() if value is not None}
        if not prompts.is_file:  # the name is for people: nobody changes such a file and submits it again
            chosen.setdefault("reuse", False)
        file = (f"{prompts.stem}.{prompts.format}", prompts.data)
        return self._ask("POST", "/batches/upload", SubmittedView, files={"file": file}, data=chosen)

    def batches(self, after: str | None) -> BatchListView:
        return self._ask("GET", "/batches", BatchListView, params=_page(after))

    def status(self, batch_id: str) -> StatusView:
        return self._ask("GET", f"/batches/{batch_id}", StatusView)

    def jobs(self, batch_id: str, after: str | None) -> JobListView:
        return self._ask("GET", f"/batches/{batch_id}/jobs", JobListView, params=_page(after))

    def files(self, job_id: str) -> list[FileView]:
        return self._ask("GET", f"/jobs/{job_id}", JobDetailView).files

    def events(self, batch_id: str, after: str | None) -> EventsPageView:
        return self._ask("GET", f"/batches/{batch_id}/events", EventsPageView, params=_page(after))

    def cancel(self, batch_id: str) -> ChangedView:
        return self._ask("POST", f"/batches/{batch_id}/cancel", ChangedView)

    def retry(self, batch_id: str) -> ChangedView:
        return self._ask("POST", f"/batches/{batch_id}/retry", ChangedView)

    def fetch_video(self, job_id: str, file: FileView, target: Path) -> None:
        with self._errors(), self._client.stream("GET", f"/v1/videos/video_{job_id}/content") as answer:
            if answer.is_error:
                answer.read()
                raise _error(answer)
            with target.open("wb") as out:
                for part in answer.iter_bytes():
                    out.write(part)

    @contextlib.contextmanager
    def working(self) -> Iterator[Callable[[], None]]:
        yield lambda: None  # the server works, or its cluster

    def close(self) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, kind: type[Answer], **options: Any) -> Answer:
        with self._errors():
            answer = self._client.request(method, _PREFIX + path, **options)
        if answer.is_error:
            raise _error(answer)
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError:
            message = f"{self._url} answers {method} {path} with what no vgen of this release would"
            raise ServiceUnavailableError(message) from None

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise ServiceUnavailableError(f"{self._url}: {error or type(error).__name__}") from error


def _page(after: str | None) -> dict[str, str | int]:
    return {"limit": _PAGE} if after is None else {"limit": _PAGE, "after": after}


def _error(answer: httpx.Response) -> VgenError:
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"{answer.status_code} {answer.reason_phrase}"
    if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return ServiceUnavailableError(message)
    return _ERRORS.get(answer.status_code, InputError)(message)
