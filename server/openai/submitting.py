"""A request that asks for videos, on its way into the rows."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session
from starlette.requests import Request

from db.clips import jobs
from db.models import ArtifactRow
from pipeline.errors import InputError, NotFoundError
from pipeline.inputs.collector import Downloads, InputCollector
from pipeline.prompts import Submission
from pipeline.prompts.parse import parse_fields
from pipeline.states import JobState
from server.auth import Caller
from server.database import Line
from server.errors import ApiError
from server.openai import rows
from server.openai.field_names import MAX_N
from server.openai.fields import Asked, read_fields
from server.openai.forms import Body, read_body
from server.openai.ids import video_id
from server.openai.objects import Video
from server.openai.repetition import Incoming, incoming
from server.query import is_lenient
from service import submission
from service.forecast import stuck

_SEEDS = 2**31
"""Every client's number type holds a seed below this one."""
_SOURCE = "videos"


@dataclass
class Order:
    """A request for videos: what came, from whom, and whether it came before."""

    line: Line
    caller: Caller
    body: Body
    incoming: Incoming
    lenient: bool
    most: int = MAX_N
    clips: Downloads | None = field(default=None)
    """The folder of finished videos that the request names."""

    def asked(self, fields: Mapping[str, object]) -> Asked:
        return read_fields(
            fields,
            settings=self.line.settings,
            clip_file=self.clip_file,
            files=self.body.files,
            owner=self.caller.owner,
            lenient=self.lenient,
            most=self.most,
        )

    def clip_file(self, wanted: str) -> str:
        """Fetch a finished video's file, and return the name by which a field calls it. Raises ApiError."""
        with self.line.database.reading() as session:
            found = rows.find(session, self.caller, wanted)
            file = session.get(ArtifactRow, (found.job.id, "video"))
        if found.job.state is not JobState.SUCCEEDED:
            raise ApiError(400, f"video {wanted} is not finished", code="video_not_ready", param="video")
        self.clips = self.clips or Downloads()
        name = f"clip-{secrets.token_hex(16)}"
        path = self.clips.path / f"{found.job.id}.mp4"
        try:
            if file is None:
                raise NotFoundError(wanted)
            self.line.storage.download(file.key, path)
        except NotFoundError:
            text = f"the file of video {wanted} is no longer kept"
            raise ApiError(404, text, code="video_expired", param="video") from None
        self.body.files[name] = path
        return name


async def order_of(request: Request, line: Line, caller: Caller, *, route: str) -> Order:
    """Read a request's body. Raises ApiError."""
    since = time.monotonic()
    body = await read_body(request)
    came = await run_in_threadpool(incoming, request.headers, body, route, caller, line, since)
    return Order(line, caller, body, came, is_lenient(request))


def answered_by(order: Order, store: Callable[[], str], notices: list[str]) -> Video:
    """The first video of the batch that ``store`` stores, unless the same request did so before; then of that one."""
    batch_id = order.incoming.earlier() or order.incoming.once(store)
    with order.line.database.reading() as session:
        found = rows.of_batch(session, batch_id)
        video = rows.view(session, order.line, found[0])
        reasons = [item.reason for item in stuck(session, found[0].batch, order.line.settings)]
    video.notices = [*notices, *reasons] or None
    video.group = [video_id(each.job.id) for each in found] if len(found) > 1 else None
    return video


def create(
    order: Order, fields: Mapping[str, object], *, remixed_from: str | None = None, inputs: InputCollector | None = None
) -> Video:
    """Store what the fields ask for; the first video. Raises ApiError with every mistake."""
    notices: list[str] = []

    def store() -> str:
        asked = order.asked(fields)
        notices.extend(asked.notices)
        parsed, settings = _parsed(order, asked, inputs), order.line.settings
        try:
            options = submission.batch_options(asked.choices, settings, parsed.scoring)
        except InputError as error:
            raise asked.refusal(error.problems) from None

        def also(session: Session, batch_id: str) -> None:
            order.incoming.recorded(session, batch_id)
            if remixed_from is not None:
                jobs.note_remix(session, batch_id, of=remixed_from)

        try:
            stored = submission.store(
                parsed,
                options,
                settings=settings,
                database=order.line.database,
                name=_SOURCE,
                owner=order.caller.owner,
                again=True,
                also=also,
            )
        except InputError as error:
            raise asked.refusal(error.problems) from None
        notices.extend(asked.said([*submission.input_notes(parsed), *submission.advice_on(parsed, settings)]))
        return stored.batch_id

    return answered_by(order, store, notices)


def _parsed(order: Order, asked: Asked, inputs: InputCollector | None) -> Submission:
    for job in asked.jobs:  # equal requests make different videos, unless they say which one they want
        job.setdefault("seed", secrets.randbelow(_SEEDS))
    files = cast("Mapping[str, Path]", order.body.files)
    try:
        return parse_fields(asked.jobs, _SOURCE, settings=order.line.settings, files=files, inputs=inputs)
    except InputError as error:
        raise asked.refusal(error.problems) from None
