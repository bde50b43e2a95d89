"""``/v1/videos/extensions``: the video that goes on from a finished one."""

from pipeline.errors import ConflictError, InputError
from pipeline.prompts.numbers import flag, show
from server.errors import ApiError
from server.openai import rows
from server.openai.ids import ID_PREFIX
from server.openai.objects import Video
from server.openai.submitting import Order, answered_by
from service import extension

_CHANGES = ("segments", "num_frames", "seed", "enhance")
FIELDS = ("prompt", "video", "seconds", "whole", "model", *_CHANGES)


def extend(order: Order) -> Video:
    """Store the video that goes on. Raises ApiError with every mistake."""
    given = {name: value for name, value in order.body.fields.items() if value not in (None, "")}
    for name in given:
        if name not in FIELDS:
            message = f"{name[:80]}: is the finished video's: an extension takes {', '.join(FIELDS)}"
            raise ApiError(400, message, code="unknown_parameter", param=name[:80])
    if "prompt" not in given:
        raise ApiError(400, "prompt: is missing", code="invalid_value", param="prompt")
    with order.line.database.reading() as session:
        job = rows.find(session, order.caller, _id_of(order, given.get("video"))).job
    if given.get("model", job.spec["preset"]) != job.spec["preset"]:
        message = f"model: {show(given['model'])} contradicts the video's, {job.spec['preset']!r}"
        raise ApiError(400, message, code="invalid_value", param="model")
    changes = {name: given.get(name) for name in _CHANGES}
    if "seconds" in given:
        changes["num_frames"] = _frames(given, job.spec)
    try:
        if isinstance(changes["enhance"], str):
            changes["enhance"] = flag(changes["enhance"], True)
        whole = flag(given.get("whole", True), True)
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_value", param="whole") from None

    def store() -> str:
        try:
            done = extension.extend(
                order.line.database,
                order.line.settings,
                job.id,
                str(given["prompt"]),
                changes,
                whole=whole,
                owner=order.caller.owner,
                also=order.incoming.recorded,
            )
        except ConflictError as error:
            raise ApiError(400, str(error), code="video_not_extendable", param="video") from None
        except InputError as error:
            raise _refusal(error, "seconds" in given) from None
        return done.stored.batch_id

    return answered_by(order, store, [])


def _id_of(order: Order, value: object) -> str:
    """The id of the finished video. Raises ApiError: it is a file, or nothing."""
    if isinstance(value, dict) and set(value) == {"id"}:
        value = value["id"]
    if isinstance(value, str) and value.startswith(ID_PREFIX):
        return value
    if isinstance(value, str) and value in order.body.files:
        message = "video: an uploaded file cannot be extended: give the id of a finished video, as video[id]"
        raise ApiError(400, message, code="unsupported_video", param="video")
    raise ApiError(400, "video: give the id of a finished video, as video[id]", code="invalid_value", param="video")


def _frames(given: dict[str, object], spec: dict[str, object]) -> int:
    """The frames of so many seconds, of which the preset's rule says whether they can be made."""
    if "num_frames" in given:
        raise ApiError(400, "seconds: give it or num_frames", code="invalid_value", param="seconds")
    try:
        seconds = float(str(given["seconds"]))
        return round(seconds * float(str(spec["fps"])))
    except (ValueError, OverflowError):
        message = f"seconds: {show(given['seconds'])} is not a valid number of seconds"
        raise ApiError(400, message, code="invalid_value", param="seconds") from None


def _refusal(error: InputError, by_seconds: bool) -> ApiError:
    names = {"PROMPT": "prompt", "--num-frames": "seconds" if by_seconds else "num_frames"}
    named = [(names.get(p.field or "", (p.field or "").removeprefix("--")), p.message) for p in error.problems]
    text = "\n".join(f"{name}: {message}" for name, message in named)
    return ApiError(400, text, code="invalid_value", param=named[0][0])
