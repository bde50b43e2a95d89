"""Opens a session: checks its options and stores its row. The batch is stored with the first segment."""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from db.clips.batches import Limits
from db.reading import sessions as reading
from db.scheduling import capacity
from db.session import Database
from db.sessions import rows
from pipeline.errors import (
    ConflictError,
    GpuUnavailableError,
    InputError,
    NotFoundError,
    Problem,
    RefusedError,
    SessionRejectedError,
)
from pipeline.files.object_names import state_key
from pipeline.ids import new_batch_id
from pipeline.inputs.collector import StoredInput
from pipeline.names import check_owner, check_text
from pipeline.policy.routes import fits, need_of
from pipeline.presets import Preset, load_library
from pipeline.prompts.fields import MAX_PROMPT_CHARS
from pipeline.prompts.parse import parse_fields
from pipeline.seeds import derive_seed
from pipeline.settings import Settings
from pipeline.spec import JobSpec
from pipeline.stages.continuation import BLOB, check_fits
from pipeline.storage.base import Storage
from pipeline.storage.inputs import put_input
from pipeline.wiring import make_storage
from pipeline.work import ContinuationRef
from service import advice, submission
from service.choices import SubmissionChoices
from service.sessions.choices import SessionChoices
from service.views.sessions import SessionView, session_view

_ID = re.compile(r"[0-9a-f]{32}")
_FIELDS = (
    *("preset", "width", "height", "num_frames", "fps", "num_inference_steps"),
    *("guidance_scale", "negative_prompt", "seed", "image", "priority"),
)
_MAX_EXTRA_KEYS = 64
_MAX_TEXT = 10_000
"""The most characters of one value in ``extra``."""
_MAX_SHOWN = 40
_MAX_FPS = 1000
_CHANNELS = 3
_STATE_TEXTS = ("preset", "model_revision", "prompt")
"""What a state says of where it is from (``keep_last_frames``), beside its size and its rate."""
_MAX_SEGMENT_CAP = 999_999
"""A job's number within its batch has six digits."""
_NAME = "stream"


def open_session(
    database: Database,
    settings: Settings,
    choices: SessionChoices,
    *,
    owner: str | None = None,
    session_id: str | None = None,
) -> SessionView:
    """Open a session, which waits for a GPU from now on.

    ``session_id``, 32 hexadecimal digits, is the caller's own: a session that is there under it, and has that owner,
    is returned as it is.

    Raises:
        InputError: with every mistake in the choices; or the preset's model is not on the machine that would make it.
        SessionRejectedError: the owner has as many open sessions as one may have.
        GpuUnavailableError: no live GPU worker fits, or sessions may have none here.
        ConflictError: another owner's session has the id.
        NotFoundError: the frames that it is to go on from are not in this server's store.
    """
    owner, new_id = check_owner(owner or settings.owner), session_id or secrets.token_hex(16)
    if _ID.fullmatch(new_id) is None:
        raise InputError([Problem(f"{new_id[:80]!r} is not a session's id: 32 hexadecimal digits", field="session_id")])
    if session_id is not None and (known := _known(database, session_id, owner)) is not None:
        return known
    values, preset, inputs = _row(settings, choices, owner, new_id)
    if settings.solo:  # this machine makes its segments
        advice.refuse_without_models({preset.name}, settings)
    spec = JobSpec.model_validate(values["spec"])
    with database.reading() as session:
        _admit(session, settings, owner, spec, preset)  # nothing is stored for one that may have no session
    if inputs:
        storage = make_storage(settings)
        for item in inputs:
            put_input(storage, item)
    with database.transaction() as session:
        rows.lock_owner(session, owner)
        _admit(session, settings, owner, spec, preset)
        if not rows.store(session, values) and rows.lock(session, new_id).owner != owner:
            raise ConflictError(f"session {new_id} belongs to another owner")
    with database.reading() as session:
        return session_view(reading.facts_of(session, rows.get(session, new_id, owner=owner)))


def _known(database: Database, session_id: str, owner: str) -> SessionView | None:
    with database.reading() as session:
        row = rows.find(session, session_id)
        if row is None:
            return None
        if row.owner != owner:
            raise ConflictError(f"session {session_id} belongs to another owner")
        return session_view(reading.facts_of(session, row))


def _row(
    settings: Settings, choices: SessionChoices, owner: str, session_id: str
) -> tuple[dict[str, Any], Preset, Sequence[StoredInput]]:
    """The columns of a new session's row, its preset, and its picture, which is not stored yet.

    Raises InputError; NotFoundError: the frames that it is to go on from are not in the store.
    """
    spec, preset, inputs = _spec(settings, choices, session_id)
    options = submission.batch_options(SubmissionChoices(safety_policy=choices.safety_policy), settings)
    problems = _problems(choices)
    continuation = None
    if choices.continuation is not None:
        try:
            continuation = _checked_state(choices.continuation, spec)
            _require_stored(make_storage(settings), continuation)
        except ValueError as error:
            problems.append(Problem(str(error), field="continuation_state"))
    if problems:
        raise InputError(problems)
    timeout_s = choices.timeout_s or settings.stream.session_timeout_s
    max_gpu_ms = None if choices.max_gpu_s is None else max(1, round(choices.max_gpu_s * 1000))
    values = {
        "id": session_id,
        "owner": owner,
        "batch_id": new_batch_id(),
        "name": _NAME,
        "preset": spec.preset,
        "need": need_of(spec),
        "spec": spec.model_dump(mode="json", exclude_defaults=True),
        "options": options.model_copy(update={"session": session_id}).as_json(),
        "limits": Limits(max_gpu_ms=max_gpu_ms, prices=settings.prices).columns(),
        "extra": dict(choices.extra),
        "continuation": continuation,
        "segment_cap": choices.segment_cap,
        "timeout_ms": round(timeout_s * 1000),
    }
    return values, preset, inputs


def _spec(
    settings: Settings, choices: SessionChoices, session_id: str
) -> tuple[JobSpec, Preset, Sequence[StoredInput]]:
    """What the session's segments share, and its picture. Raises InputError with every mistake."""
    fields: dict[str, object] = {name: value for name in _FIELDS if (value := getattr(choices, name)) is not None}
    fields |= {"prompt": "the prompt of a segment", "enhance": False}
    if choices.gpu:
        fields["gpu"] = list(choices.gpu)
    fields.setdefault("seed", derive_seed(session_id, 0, 0))
    if choices.continuation is not None:
        fields.pop("image", None)
    parsed = parse_fields([fields], _NAME, settings=settings, files=choices.files)
    spec = parsed.jobs[0].spec
    preset = load_library(settings.effective_presets_dir).get(spec.preset)
    seam = 0 if preset.continuation is None else preset.continuation.frames
    if seam and spec.num_frames < 2 * seam:
        near = ", ".join(str(count) for count in preset.frames.nearest(2 * seam))
        text = f"{spec.num_frames} are too few for a continuation with preset {preset.name!r}; nearest: {near}"
        raise InputError([Problem(text, field="num_frames")])
    return spec.model_copy(update={"prompt": "", "seam_frames": seam}), preset, list(parsed.inputs.values())


def _problems(choices: SessionChoices) -> list[Problem]:
    problems = []
    for name in ("timeout_s", "max_gpu_s"):
        value = getattr(choices, name)
        if value is not None and not (math.isfinite(value) and 0 < value <= 1e9):
            problems.append(Problem(f"{value!r} is not possible: more than 0, and at most 1e9", field=name))
    cap = choices.segment_cap
    if cap is not None and not 1 <= cap <= _MAX_SEGMENT_CAP:
        problems.append(Problem(f"{cap} is not possible: 1 to {_MAX_SEGMENT_CAP}", field="segment_cap"))
    if len(choices.extra) > _MAX_EXTRA_KEYS:
        problems.append(Problem(f"has {len(choices.extra)} keys; at most {_MAX_EXTRA_KEYS} are kept", field="extra"))
    for name, value in choices.extra.items():
        try:
            check_text(value if isinstance(value, str) else json.dumps(value, allow_nan=False), _MAX_TEXT, empty=True)
        except (TypeError, ValueError) as error:
            problems.append(Problem(f"{value!r:.80} is not possible: {error}", field=f"extra.{name}"))
    return problems


def _checked_state(given: Mapping[str, Any], spec: JobSpec) -> dict[str, Any]:
    """A continuation state from a client, of which nothing is believed: what is kept of it. Raises ValueError."""
    try:
        payload, blob = dict(given["payload"]), dict(given["blobs"][BLOB])
        state = ContinuationRef(
            str(given["kind"])[:_MAX_SHOWN],
            int(given["version"]),
            {name: _whole(payload, name) for name in ("frames", "height", "width")},
            {},
        )
        key, sha256, size = str(blob["key"]), str(blob["sha256"]), int(blob["size"])
    except (KeyError, TypeError, OverflowError, ValueError) as error:
        why = f"{error!r:.200} is missing or of another type"
        raise ValueError(f"is not a continuation state: {why}") from None
    if re.fullmatch(r"[0-9a-f]{64}", sha256) is None or key != state_key(sha256):
        raise ValueError(f"names {key[:100]!r}, which is not where the frames of a state lie")
    if not spec.seam_frames:
        raise ValueError(f"is given, but preset {spec.preset!r} cannot continue from given frames")
    try:
        check_fits(state, frames=spec.seam_frames, height=spec.height, width=spec.width)
    except RefusedError as error:
        raise ValueError(str(error)) from None
    expected = spec.seam_frames * spec.height * spec.width * _CHANNELS
    if size != expected:
        raise ValueError(f"names frames of {size!r:.40} bytes; {spec.seam_frames} of that size have {expected}")
    origin = {} if given.get("job_id") is None else {"job_id": _text(given, "job_id", _MAX_SHOWN)}
    facts = {name: _text(payload, name, MAX_PROMPT_CHARS) for name in _STATE_TEXTS if payload.get(name) is not None}
    kept = {**state.payload, **facts, **_rate(payload)}
    blobs = {BLOB: {"key": key, "sha256": sha256, "size": size}}
    return {"kind": state.kind, "version": state.version, "payload": kept, "blobs": blobs, **origin}


def _whole(payload: Mapping[str, Any], name: str) -> int:
    value = payload[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} {value!r:.40}")
    return value


def _text(given: Mapping[str, Any], name: str, maximum: int) -> str:
    value = given[name]
    if not isinstance(value, str):
        raise ValueError(f"has {name} {value!r:.40}, which is not text")
    try:
        return check_text(value, maximum, empty=name == "prompt")
    except ValueError as error:
        raise ValueError(f"has a {name} that {error}") from None


def _rate(payload: Mapping[str, Any]) -> dict[str, float]:
    fps = payload.get("fps")
    if fps is None:
        return {}
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= _MAX_FPS:
        raise ValueError(f"has fps {fps!r:.40}, which is not a rate of frames")
    return {"fps": fps}


def _require_stored(storage: Storage, state: Mapping[str, Any]) -> None:
    """Raises NotFoundError: the frames of the state are not in this store."""
    blob = state["blobs"][BLOB]
    stored = storage.stat(blob["key"])
    if stored is None or stored.size != blob["size"]:
        text = f"its frames are not in this server's store ({blob['key']!r}, {blob['size']} bytes)"
        rule = "a snapshot goes on only where the store is the one that it was made in, and as long as it is kept there"
        raise NotFoundError(f"continuation_state: {text}: {rule}")


def _admit(session: Session, settings: Settings, owner: str, spec: JobSpec, preset: Preset) -> None:
    """Raises SessionRejectedError, GpuUnavailableError."""
    most = settings.stream.sessions_per_owner
    if rows.unended(session, owner) >= most:
        raise SessionRejectedError(f"{owner} has {most} open sessions, and no owner may have more: close one first")
    if settings.stream.gpu_share == 0:
        raise GpuUnavailableError("sessions get no GPU here: VGEN_STREAM_GPU_SHARE is 0")
    live = capacity.gpu_capacity(session, {})
    if not any((not spec.gpu or name in spec.gpu) and fits(preset, line.memory_bytes) for name, line in live.items()):
        wanted = f"a GPU of type {' or '.join(spec.gpu)}" if spec.gpu else "any GPU with room for it"
        raise GpuUnavailableError(f"preset {spec.preset} on {wanted}: no live worker can make it")
