"""Videos made of others: remixes, edits, extensions; and the same as one call that waits for the bytes."""

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from db.models import ArtifactRow
from pipeline.errors import NotFoundError
from pipeline.presets import Workload, load_library
from pipeline.prompts.imported import line_fields
from pipeline.prompts.stored_inputs import StoredInputs
from pipeline.seeds import roll_seed
from server.auth import Caller, require
from server.database import Line, ServedLine
from server.errors import ApiError
from server.openai import rows
from server.openai.content import file_answer
from server.openai.extension import FIELDS, extend
from server.openai.field_names import SPELLINGS
from server.openai.objects import Video
from server.openai.request_schema import request_body
from server.openai.submitting import Order, create, order_of
from server.openai.videos import poll_header, waited

router = APIRouter(tags=["videos"])
Writer = Annotated[Caller, Depends(require("videos.write"))]
_REPLACED = {
    "seconds": ("num_frames",),
    "num_frames": ("num_frames",),
    "size": ("width", "height"),
    "aspect_ratio": ("width", "height"),
    "short_edge": ("width", "height"),
}
"""What of the first video's specification a field of the remix stands in place of."""
_INPUTS = ("image", "last_image", "video", "reference_images", "loras")
_SYNC_POLL_S = 30.0


@router.post("/videos/{video_id}/remix", response_model=Video, openapi_extra=request_body("prompt"))
async def remix(request: Request, response: Response, video_id: str, line: ServedLine, caller: Writer) -> Video:
    """Make a video as another one was specified, with another prompt; other fields may change, its inputs may not."""
    order = await order_of(request, line, caller, route=f"remix {video_id}")
    video = await run_in_threadpool(_remix, order, video_id)
    response.headers.update(poll_header(video))
    return video


def _remix(order: Order, video_id: str) -> Video:
    with order.line.database.reading() as session:
        job = rows.find(session, order.caller, video_id).job
    given = {name: value for name, value in order.body.fields.items() if value not in (None, "")}
    if "prompt" not in given:
        raise ApiError(400, "prompt: is missing", code="invalid_value", param="prompt")
    if job.spec.get("extends"):
        message = f"video {video_id} is the continuation of another video: remix that one"
        raise ApiError(400, message, code="unsupported_video", param="video_id")
    inputs = StoredInputs(order.line.storage.download)
    before = _specified(job.spec, job.roll, inputs)
    targets = {name: SPELLINGS.get(name, name) for name in given}
    replaced = {old for target in targets.values() for old in (target, *_REPLACED.get(target, ()))}
    fixed = sorted(name for name, target in targets.items() if target in _INPUTS)
    if fixed:
        raise ApiError(400, f"{fixed[0]}: a remix has the first video's inputs", code="invalid_value", param=fixed[0])
    fields = {**{name: value for name, value in before.items() if name not in replaced}, **given}
    return create(order, fields, remixed_from=job.id, inputs=inputs)


def _specified(spec: dict[str, object], roll: int, inputs: StoredInputs) -> dict[str, object]:
    """The fields of a request for the same video."""
    mistakes: list[str] = []
    fields = line_fields(spec, inputs, lambda field, message: mistakes.append(f"{field}: {message}"))
    if mistakes:
        raise NotFoundError("; ".join(mistakes))
    segments = fields.pop("segments", 1)
    fields |= {"segments": len(segments) if isinstance(segments, list) else segments}
    fields["seed"] = roll_seed(int(str(fields["seed"])), roll)
    fields.pop("custom_id", None)
    return {name: value for name, value in fields.items() if value is not None}


@router.post("/videos/edits", response_model=Video, openapi_extra=request_body("prompt", "video"))
async def edit(request: Request, response: Response, line: ServedLine, caller: Writer) -> Video:
    """Make a video of another one, with a preset that takes videos."""
    order = await order_of(request, line, caller, route="edits")
    if order.body.fields.get("video") in (None, ""):
        raise ApiError(400, "video: is missing: upload it, or give video[id]", code="invalid_value", param="video")
    video = await run_in_threadpool(create, order, _with_video_model(order))
    response.headers.update(poll_header(video))
    return video


def _with_video_model(order: Order) -> dict[str, object]:
    """The fields, with the only preset that takes videos where none is named and the server's own takes none."""
    library = load_library(order.line.settings.effective_presets_dir)
    default = library.presets.get(order.line.settings.preset)
    if "model" in order.body.fields or (default is not None and default.workload is Workload.V2V):
        return order.body.fields
    able = sorted(name for name, preset in library.presets.items() if preset.workload is Workload.V2V)
    message = f"model: is missing, and the server's own takes no video: use {' or '.join(able)}"
    raise ApiError(400, message, code="invalid_value", param="model")


@router.post("/videos/extensions", response_model=Video, openapi_extra=request_body("prompt", "video", only=FIELDS))
async def extension(request: Request, response: Response, line: ServedLine, caller: Writer) -> Video:
    """Make a video that begins with a finished one and goes on from its last frames."""
    order = await order_of(request, line, caller, route="extensions")
    video = await run_in_threadpool(extend, order)
    response.headers.update(poll_header(video))
    return video


@router.post("/videos/characters")
async def create_character(caller: Writer) -> None:
    """Answer 501: there are no characters. Presets that take pictures of them have the field reference_images."""
    raise _no_characters()


@router.get("/videos/characters/{character_id}")
async def retrieve_character(character_id: str, caller: Writer) -> None:
    """Answer 501, as above."""
    raise _no_characters()


def _no_characters() -> ApiError:
    message = "characters are not kept: give their pictures as reference_images to a preset that takes them"
    return ApiError(501, message, code="unsupported_characters", headers={"x-should-retry": "false"})


@router.post("/videos/sync", response_class=Response, openapi_extra=request_body("prompt"))
async def sync(request: Request, line: ServedLine, caller: Writer) -> Response:
    """Make a video and answer with its bytes. A client that goes away finds it in the list of videos."""
    order = await order_of(request, line, caller, route="sync")
    order.most = 1
    video = await run_in_threadpool(create, order, order.body.fields)
    while video.status in ("queued", "in_progress") and not line.stopping.is_set():
        if await request.is_disconnected():
            raise ClientDisconnect
        video = await waited(request, line, caller, video.id, _SYNC_POLL_S)
    if video.error is not None:
        headers = {"x-should-retry": "false", "x-video-id": video.id}
        raise ApiError(400, video.error.message, code=video.error.code, headers=headers)
    if video.status != "completed":
        message = f"the server stops; video {video.id} is made all the same"
        raise ApiError(503, message, code="server_stopping", headers={"x-video-id": video.id})
    return await run_in_threadpool(_bytes, request, line, video)


def _bytes(request: Request, line: Line, video: Video) -> Response:
    with line.database.reading() as session:
        file = session.get(ArtifactRow, (video.vgen_job, "video"))
    if file is None:
        raise ApiError(404, f"the file of video {video.id} is no longer kept", code="video_expired")
    answer = file_answer(request, line.storage, file, redirect=False)
    answer.headers["x-video-id"] = video.id
    answer.headers["x-model"] = video.model
    answer.headers["x-inference-time-s"] = str(video.inference_time_s or 0)
    answer.headers["x-stage-durations"] = json.dumps(video.stage_durations or {})
    if video.peak_memory_mb is not None:
        answer.headers["x-peak-memory-mb"] = str(video.peak_memory_mb)
    return answer
