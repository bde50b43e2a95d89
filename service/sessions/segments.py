"""Requests one more segment of a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from db.clips import batches
from db.clips.batches import Limits
from db.models import Job, StreamSession
from db.reading import sessions as reading
from db.session import Database
from db.sessions import growth, rows
from pipeline.digests import canonical_json, sha256_hex
from pipeline.errors import ConflictError, InputError, Problem
from pipeline.prompts import PlannedJob, Submission
from pipeline.prompts.fields import PARSERS
from pipeline.seeds import segment_seed
from pipeline.settings import Settings
from pipeline.spec import BatchOptions, JobSpec
from pipeline.states import SESSION_ENDS, Stage
from service import submission
from service.views.sessions import SOURCE_LABEL, StreamSegmentView, segment_view

SOURCES = ("user", "curated", "enhanced", "auto_extension")
"""Where a segment's prompt may be from."""
_SAME = ("prompt", "negative_prompt", "seed", "num_inference_steps", "guidance_scale", "enhance", "labels")
"""What two requests for one segment must agree on."""


def add_segment(
    database: Database,
    settings: Settings,
    session_id: str,
    segment: int,
    prompt: str,
    *,
    owner: str | None = None,
    seed: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    source: str = "user",
    enhance: bool = False,
    viewer: str | None = None,
) -> StreamSegmentView:
    """Ask for segment ``segment``, from 0 without gaps. Asking again for the same one returns it as it is.

    With ``viewer`` only where that is the session's newest client: whoever comes then finds all that was asked for
    before, and nothing is added behind its back. None of a field is not given: the session's own value. It counts as a
    sign of life (``touch``).

    Raises:
        InputError: with every mistake in the fields, or the segment is not the next one.
        NotFoundError: there is no such session, or it is another owner's.
        ConflictError: the segment was asked for with other content; or the session has ended, has as many segments
            as it may have, or another client.
        QuotaError: the key with which the first segment was asked for over HTTP may not have another.
    """
    given: dict[str, object] = {"prompt": prompt, "seed": seed, "num_inference_steps": num_inference_steps}
    given |= {"guidance_scale": guidance_scale, "negative_prompt": negative_prompt}
    values = _read(given, source)
    with database.transaction() as session:
        row = rows.lock(session, session_id, owner=owner)
        if viewer not in (None, row.extra.get(rows.VIEWER, viewer)):
            raise ConflictError(f"session {row.id} is another client's now")
        spec = _spec(row, segment, values, source, enhance)
        job = growth.segment_job(session, row, segment)
        if job is not None:
            _require_same(job, spec, segment)
        else:
            _require_next(row, segment)
            job_id = _store(session, settings, row, spec)
            growth.note_added(session, row, job_id, source=source)
            session.flush()
        return segment_view(reading.segment_facts(session, row, segment), segment)


def _read(given: Mapping[str, object], source: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for field, value in given.items():
        if value is None:
            continue
        try:
            parsed: Any = PARSERS[field](value, False)
            values[field] = parsed[0] if field == "seed" else parsed  # a line may have several, a segment has one
        except ValueError as error:
            problems.append(Problem(str(error), field=field))
    if source not in SOURCES:
        problems.append(Problem(f"{source!r} is not a source: use {', '.join(SOURCES)}", field="source"))
    if problems:
        raise InputError(problems)
    return values


def _spec(row: StreamSession, segment: int, values: Mapping[str, Any], source: str, enhance: bool) -> JobSpec:
    shared = JobSpec.model_validate({"prompt": "", **row.spec})
    changes = {"seed": segment_seed(shared.seed, segment), **values, "enhance": enhance}
    changes["labels"] = {**shared.labels, SOURCE_LABEL: source}
    return shared.model_copy(update=changes)


def _require_same(job: Job, spec: JobSpec, segment: int) -> None:
    stored = JobSpec.model_validate(job.spec)
    differing = [name for name in _SAME if getattr(stored, name) != getattr(spec, name)]
    if differing:
        raise ConflictError(f"segment {segment} was requested before, with another {' and another '.join(differing)}")


def _require_next(row: StreamSession, segment: int) -> None:
    if row.state in SESSION_ENDS:
        raise ConflictError(f"session {row.id} has ended ({row.end_reason}): it takes no more segments")
    if row.segment_cap is not None and row.segments >= row.segment_cap:
        raise ConflictError(f"session {row.id} has {row.segments} segments, and may have no more")
    if segment != row.segments:
        raise InputError([Problem(f"{segment} is not the next one, which is {row.segments}", field="segment")])


def _store(session: Session, settings: Settings, row: StreamSession, spec: JobSpec) -> str:
    """Store the segment's job, the first one's with the batch; return its id."""
    before = growth.predecessor(session, row) if spec.seam_frames else None
    if before is not None:
        spec = spec.model_copy(update={"extends": before.job_id, "image": None, "last_image": None})
    state = None if before is None else before.state
    if row.segments:
        stage = Stage.ENHANCE if spec.enhance else Stage.SCREEN
        return batches.append(session, row.batch_id, spec, stage=stage, state=state)
    digest = sha256_hex(canonical_json(spec.model_dump(mode="json")))
    new = Submission([PlannedJob(1, 0, spec)], digest, {}, row.name)
    submission.require_enhancer(new, settings)
    stored = batches.submit(
        session,
        new,
        name=row.name,
        owner=row.owner,
        options=BatchOptions.model_validate(row.options),
        key=f"session:{row.id}",
        limits=Limits(**{"prices": {}, **row.limits}),
        states={} if state is None else {0: state},
        batch_id=row.batch_id,
    )
    return f"{stored.batch_id}-000000"
